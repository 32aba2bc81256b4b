"""`supportstream verify` on real traffic: silent while all is well, and what was tampered with is named."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from schemas.partition import home_partition
from schemas.replies import TurnCompleted, decode_reply, encode_reply
from schemas.session import SessionData
from tests.polling import eventually
from tests.processes import Pipeline
from tests.topic_records import committed_offsets, producer, read_topic, session_on, session_store

MESSAGES = 5


@pytest.fixture(scope="module")
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    """Two sessions' messages, a duplicate, a record that is no JSON: all of it done, and no worker any more."""
    with new_pipeline(GENERATOR="null") as pipeline:
        worker = pipeline.worker()
        pipeline.ready()
        asyncio.run(traffic(pipeline))
        worker.server.stop(grace_s=15.0)
        yield pipeline


async def traffic(pipeline: Pipeline) -> None:
    async with producer(pipeline.bootstrap_servers) as kafka:
        for session_id in (session_on([0]), session_on([1])):
            for n in range(MESSAGES):
                await say(kafka, pipeline, session_id, f"{session_id}-{n}")
            await say(kafka, pipeline, session_id, f"{session_id}-0")
            await kafka.send_and_wait(pipeline.topics.inbound, b"{", session_id.encode())

    async def all_committed() -> bool:
        return sum((await committed_offsets(pipeline)).values()) == 2 * (MESSAGES + 2)

    await eventually(all_committed, "everything is committed")


async def say(kafka: Any, pipeline: Pipeline, session_id: str, id: str) -> None:
    value = orjson.dumps({"id": id, "text": "Is anybody there?"})
    await kafka.send_and_wait(pipeline.topics.inbound, value, session_id.encode())


def verify(pipeline: Pipeline, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = pipeline.run("verify", "--json", *arguments)
    return done.returncode, orjson.loads(done.stdout)


async def test_traffic_in_which_all_went_well(pipeline: Pipeline) -> None:
    code, found = await asyncio.to_thread(verify, pipeline, "--wait", "10")
    assert code == 0, found
    assert found["ok"]
    assert found["records"]["inbound"] == 2 * (MESSAGES + 2)
    assert found["records"]["answered"] == 2 * MESSAGES
    assert found["records"]["duplicates"] == 2
    assert found["records"]["dead_letters"] == 2
    assert found["records"]["sessions"] == 2
    shown = await asyncio.to_thread(pipeline.must, "verify")
    assert "L  kept" in shown
    assert "14 inbound records: 10 answered, 2 dead letters, 2 duplicates, 0 open" in shown


async def test_a_span_before_the_traffic_has_none(pipeline: Pipeline) -> None:
    code, found = await asyncio.to_thread(verify, pipeline, "--until", "1d")
    assert (code, found["records"].get("inbound", 0)) == (0, 0)
    code, found = await asyncio.to_thread(verify, pipeline, "--since", "1h")
    assert (code, found["records"]["inbound"]) == (0, 2 * (MESSAGES + 2))


async def test_what_is_committed_and_was_never_answered_is_named(pipeline: Pipeline) -> None:
    """L, C: the group is told that a record is done which no worker saw."""
    session_id = session_on([2])
    async with producer(pipeline.bootstrap_servers) as kafka:
        await say(kafka, pipeline, session_id, "never-answered")
    assert (await asyncio.to_thread(verify, pipeline))[0] == 0, "nothing is wrong with a record that waits"
    code, found = await asyncio.to_thread(verify, pipeline, "--wait", "0.1")
    assert (code, found["breaches"]["L"]["first"][0]["inbound_id"]) == (1, "never-answered")
    done = await asyncio.to_thread(pipeline.run, "verify", "--wait", "0.1")
    assert done.returncode == 1
    assert f"session {session_id}, id never-answered" in done.stdout
    assert "invariants are broken: L" in done.stderr


async def test_a_store_that_lost_an_update_is_named(pipeline: Pipeline) -> None:
    """U, R: a session is put back to what it was one turn before."""
    before = await some_session(pipeline)
    await put(pipeline, replace(before, message_count=before.message_count - 1, recent_ids=before.recent_ids[:-1]))
    try:
        code, found = await asyncio.to_thread(verify, pipeline)
        assert code == 1
        assert {name for name, each in found["breaches"].items() if each["count"]} == {"U", "R"}
        assert found["breaches"]["U"]["first"][0]["session_id"] == before.session_id
        assert "message_count 4 and 5" in found["breaches"]["U"]["first"][0]["what"]
    finally:
        await put(pipeline, before)
    assert (await asyncio.to_thread(verify, pipeline))[0] == 0


async def test_an_answer_that_was_published_with_other_words_is_named(pipeline: Pipeline) -> None:
    """D: the last test, for what is in a topic stays there."""
    record = next(r for r in await read_topic(pipeline.bootstrap_servers, pipeline.topics.replies))
    event = decode_reply(record.value)
    assert isinstance(event, TurnCompleted)
    assert event.reply is not None
    other = replace(event, reply=replace(event.reply, text="Something else."))
    async with producer(pipeline.bootstrap_servers) as kafka:
        await kafka.send_and_wait(
            pipeline.topics.replies, encode_reply(other), record.key, partition=home_partition(event.session_id, 12)
        )
    code, found = await asyncio.to_thread(verify, pipeline)
    assert code == 1
    assert found["breaches"]["D"]["first"][0]["inbound_id"] == event.inbound_id


async def some_session(pipeline: Pipeline) -> SessionData:
    record = next(r for r in await read_topic(pipeline.bootstrap_servers, pipeline.topics.replies))
    store = session_store(pipeline)
    try:
        stored = await store.load(record.key.decode())
        assert stored is not None
        return stored.session
    finally:
        await store.close()


async def put(pipeline: Pipeline, session: SessionData) -> None:
    """Overwrites the session's state behind everybody's back."""
    store = session_store(pipeline)
    try:
        key = store._keys.session(session.session_id)
        await store._round_trips.run("HSET", key, "state", session.to_json())
    finally:
        await store.close()
