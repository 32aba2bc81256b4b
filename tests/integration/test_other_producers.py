"""Other systems publish as they like: with another partitioner, without a key, with little in the value."""

import asyncio
import subprocess
from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

import orjson

from schemas.partition import home_partition
from schemas.replies import TurnCompleted
from tests.customers import customer, message_id
from tests.polling import eventually
from tests.processes import Pipeline
from tests.shop import Shop
from tests.topic_records import Log, assert_answered_once, assert_in_partition_order, producer, read_log, session_on

PARTITIONS = 12
QUESTION = "How do I get my money back?"


def kcat(pipeline: Pipeline, lines: Iterable[str], *arguments: str) -> None:
    """Publishes one record a line on the inbound topic, with librdkafka's own partitioner (CRC32 of the key)."""
    subprocess.run(
        ["kcat", "-P", "-b", pipeline.bootstrap_servers, "-t", pipeline.topics.inbound, *arguments],
        input="".join(f"{line}\n" for line in lines),
        text=True,
        check=True,
        timeout=30,
    )


def lock_path_turns(shop: Shop, reason: str) -> float:
    return sum(worker.metric("supportstream_lock_path_turns_total", reason=reason) for worker in shop.workers)


async def answers(pipeline: Pipeline, is_ours: Callable[[str], bool], count: int) -> Log:
    """The log once it has this many turns of sessions that are ours, and only what is ours of it."""

    async def enough() -> Log | None:
        log = await read_log(pipeline)
        ours = Log(
            [item for item in log.inbound if is_ours(item[1].session_id)],
            [item for item in log.replies if is_ours(item[1].session_id)],
        )
        return ours if len({event.id for _, event in ours.replies}) >= count else None

    found = await eventually(enough, f"{count} turns", deadline_s=60)
    assert found is not None
    return found


async def test_kcat_with_a_key_and_its_own_partitioner(shop: Shop) -> None:
    mark = message_id()
    # librdkafka's own partitioner is CRC32; a few sessions are at home by it, most are not.
    named = [f"{mark}:{number}" for number in range(400)]
    at_home = [s for s in named if crc32(s.encode()) % PARTITIONS == home_partition(s, PARTITIONS)]
    sessions = [*named[:20], *[session for session in at_home if session not in named[:20]][:4]]
    before = lock_path_turns(shop, "foreign_partition")
    lines = [
        f"{session}|{orjson.dumps({'text': f'{QUESTION} ({turn})'}).decode()}"
        for turn in range(3)
        for session in sessions
    ]
    await asyncio.to_thread(kcat, shop.pipeline, lines, "-K", "|")

    log = await answers(shop.pipeline, lambda session: session.startswith(mark), len(lines))
    foreign = [r for r, event in log.inbound if r.partition != home_partition(event.session_id, PARTITIONS)]
    assert foreign, "kcat's partitioner put every key on its home partition: nothing was shown"
    assert len(foreign) < len(lines), "and some are at home"
    assert_answered_once(log, [event.id for _, event in log.inbound])
    assert_in_partition_order(log)
    for events in log.first_replies().values():
        said = [event.message.text for event in events if isinstance(event, TurnCompleted) and event.message]
        assert said == [f"{QUESTION} ({turn})" for turn in range(3)]
    for record, event in log.replies:
        assert record.partition == home_partition(event.session_id, PARTITIONS), "replies are always at home"
        assert isinstance(event, TurnCompleted)
        assert event.reply is not None
        assert event.reply.citations[0].doc_id == "refunds.md"
    assert lock_path_turns(shop, "foreign_partition") - before >= len(foreign)


async def test_kcat_with_a_null_key_and_the_session_in_the_body(shop: Shop) -> None:
    mark = message_id()
    before = lock_path_turns(shop, "null_key")
    bodies: list[dict[str, Any]] = [{"session_id": f"{mark}:{number % 8}", "text": QUESTION} for number in range(48)]
    await asyncio.to_thread(kcat, shop.pipeline, [orjson.dumps(body).decode() for body in bodies], "-Z")

    log = await answers(shop.pipeline, lambda session: session.startswith(mark), len(bodies))
    assert {record.key for record, _ in log.inbound} == {None}
    assert_answered_once(log, [event.id for _, event in log.inbound])
    for session_id, events in log.first_replies().items():
        assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6], session_id
    log.folded()
    assert lock_path_turns(shop, "null_key") > before


async def test_a_plain_producer_shares_a_session_with_a_customer(shop: Shop) -> None:
    """The session stays in order however its records came: from the edge, at home, and from a foreign partition."""
    session_id = session_on({0}, PARTITIONS)
    async with customer(shop.ingresses[0], session_id) as alice, producer(shop.pipeline.bootstrap_servers) as client:
        for turn in range(9):
            text = f"{QUESTION} ({turn})"
            if turn % 3 == 0:
                await alice.say(text)
            else:
                partition = 7 if turn % 3 == 1 else None
                await client.send_and_wait(
                    shop.pipeline.topics.inbound,
                    orjson.dumps({"text": text}),
                    key=session_id.encode(),
                    partition=partition,
                )
            await alice.get(lambda frame, text=text: frame.get("message") == text, text)  # type: ignore[misc]
        assert [frame["seq"] for frame in alice.of_type("reply")] == list(range(2, 11)), "seq 1 claimed the session"
    log = await read_log(shop.pipeline)
    assert log.folded()[session_id].message_count == 9


async def test_the_same_id_twice_is_answered_once(shop: Shop) -> None:
    session_id = session_on({3}, PARTITIONS)
    body = orjson.dumps({"id": "order-4711", "text": QUESTION})
    async with producer(shop.pipeline.bootstrap_servers) as client:
        for partition in (3, 3, 8):
            topic = shop.pipeline.topics.inbound
            await client.send_and_wait(topic, body, key=session_id.encode(), partition=partition)
    async with customer(shop.ingresses[1], session_id) as alice:
        last = await alice.ask("Thank you. When do you answer?")
        assert last["seq"] <= 4
    log = await answers(shop.pipeline, session_id.__eq__, 3)
    assert_answered_once(log, ["order-4711"])
    assert [event.inbound_id for event in log.first_replies()[session_id]].count("order-4711") == 1
