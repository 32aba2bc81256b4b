"""Counters at the edges of 64 bits in foreign records: refused with a reason, or bounded; the session lives on."""

import json

from schemas.replies import SessionUpdated
from tests.neighbours.outcomes import Question, assert_verified, headers_of, outcomes_of, publish, questions
from tests.processes import Pipeline
from tests.topic_records import producer

EDGES = (1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, -1)
"""In this order: a plain number, what 64 bits hold with a sign and without one, and the first numbers beyond."""
AGAIN = 3
"""How often each is added, so that a sum leaves the range even where no single number does."""
COUNTERS = ("message_count", "visits", "fresh")
"""A field of the session, one that its metadata have, one that they don't have yet."""


async def test_counters_at_the_edge_are_refused_or_bounded_and_every_later_turn_works(pipeline: Pipeline) -> None:
    """L, U, R."""
    pipeline.worker()
    turns = questions("turn", range(len(COUNTERS)), each=len(EDGES))
    updates: dict[tuple[int, int], str] = {}
    async with outcomes_of(pipeline) as outcomes, producer(pipeline.bootstrap_servers) as kafka:

        async def update(question: Question, **changes: object) -> None:
            id = f"update-{len(updates)}"
            body = json.dumps({"type": "session.update", "id": id, "changes": changes}).encode()
            sent = await kafka.send_and_wait(
                pipeline.topics.inbound, body, question.session_id.encode(), question.partition
            )
            updates[question.partition, sent.offset] = id

        for number, question in enumerate(turns):
            edge, counter = EDGES[number // len(COUNTERS)], COUNTERS[number % len(COUNTERS)]
            if number < len(COUNTERS):
                await update(question, metadata={"visits": 1})
            for _ in range(AGAIN):
                await update(question, counters={counter: edge})
            await publish(pipeline, [question])
        await outcomes.answers([question.id for question in turns])
        updated = {
            inbound_id
            for inbound_id, events in outcomes.replies.items()
            if any(isinstance(event, SessionUpdated) for event in events)
        }
        refused = [place for place, id in updates.items() if id not in updated]
        for place in refused:
            assert headers_of(await outcomes.letter(*place))["dlq.reason"] != "internal_error"
        assert len(refused) < len(updates), "a plain number is no edge"
    found = await assert_verified(pipeline)
    assert (found["answered"], found["dead_letters"]) == (len(turns) + len(updated), len(refused))
