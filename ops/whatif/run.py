"""Reads the recorded turns and answers their messages again. Publishes nothing, touches no session, joins no group."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from aiokafka import AIOKafkaConsumer
from pydantic import ValidationError

from ops.errors import OpsError
from ops.kafka.reading import between, read_spans, whole_topic
from ops.transfer import Span
from ops.whatif.comparison import Comparison
from ops.whatif.selection import NewestTurns
from schemas.errors import NewerSchema
from schemas.replies import Reply, TurnCompleted, decode_reply
from schemas.sealed import is_sealed
from workers.errors import WorkerError
from workers.generation.protocol import Generator, Question, Retrieval, Retriever

Advance = Callable[[int, int | None], None]
"""Takes how many records or messages are done, and of how many."""

_BATCH = 2_000
_PAGE = 64
"""Messages answered at once: enough for full batches of the embedding model."""
_NO_RETRIEVAL = Retrieval()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the reply topic has of a span."""

    turns: Sequence[TurnCompleted]
    """Each with message and reply; the newest first."""
    found: int
    """How many there were to choose from; one published again long after counts again."""
    without_reply: int
    unreadable: int
    """Records that are no reply events."""


async def recorded_turns(consumer: AIOKafkaConsumer, topic: str, span: Span, limit: int, advance: Advance) -> Recorded:
    """The newest `limit` answered messages of the span.

    Raises:
        OpsError: there is no such topic, or a later version of this program wrote to it.
        KafkaError
    """
    newest = NewestTurns(limit)
    unreadable = done = 0
    spans = await between(consumer, await whole_topic(consumer, topic), span.since, span.until)
    total = sum(max(0, end - begin) for begin, end in spans.values())
    async for batches, _ in read_spans(consumer, spans, max_records=_BATCH):
        for record in chain.from_iterable(batches.values()):
            done += 1
            if not span.takes(record) or is_sealed(record.value):
                continue
            try:
                newest.take(decode_reply(record.value or b""))
            except ValidationError:
                unreadable += 1
            except NewerSchema as error:
                raise OpsError(str(error)) from error
        advance(done, total)
    return Recorded(newest.turns(), newest.found, newest.without_reply, unreadable)


async def answered_again(
    turns: Sequence[TurnCompleted], generator: Generator, retriever: Retriever | None, advance: Advance
) -> list[Comparison]:
    """What each message would be answered now, in the order of `turns`. Each is answered by itself, as the first of
    its session: nothing here reads the sessions of the time.

    Raises:
        OpsError: one could not be answered.
    """
    compared: list[Comparison] = []
    advance(0, len(turns))
    for begin in range(0, len(turns), _PAGE):
        page = turns[begin : begin + _PAGE]
        compared += await asyncio.gather(*(_compared(turn, generator, retriever) for turn in page))
        advance(len(compared), len(turns))
    return compared


async def _compared(turn: TurnCompleted, generator: Generator, retriever: Retriever | None) -> Comparison:
    message, before = turn.message, turn.reply
    assert message is not None, "a turn without a message is not selected"
    assert before is not None, "nor is one without a reply"
    try:
        retrieval = _NO_RETRIEVAL
        if generator.retrieves and retriever is not None:
            retrieval = await retriever.retrieve(message.text)
        answer = await generator.generate(Question(message, None, retrieval), _nobody_watches)
    except WorkerError as error:
        raise OpsError(f"Message {message.id} can't be answered: {error}") from error
    after = Reply(
        text=answer.text,
        citations=answer.citations,
        generator=generator.name,
        kb_version=retrieval.kb_version,
        confidence=answer.confidence,
    )
    return Comparison(message.id, turn.session_id, turn.completed_at, message.text, before, after)


async def _nobody_watches(piece: str) -> None:
    """Pieces of an answer that nobody waits for."""
