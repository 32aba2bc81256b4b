"""`supportstream sessions` against real servers: what it shows, and that what it deletes is deleted everywhere."""

import asyncio
from collections.abc import Callable, Iterator
from uuid import uuid4

import orjson
import pytest
import redis

from schemas.replies import SessionDeleted, TurnCompleted
from schemas.session import SessionData
from tests.integration.test_commands import one_line
from tests.polling import wait_until
from tests.processes import Pipeline
from tests.topic_records import Log, producer, read_log, session_store

HOSTILE = "Is my order \x1b[2J\x1b[31mlate?"


@pytest.fixture(scope="module")
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    """With a worker that answers."""
    with new_pipeline(GENERATOR="null") as pipeline:
        pipeline.worker()
        yield pipeline.ready()


@pytest.fixture
def session_id() -> str:
    return f"order-{uuid4().hex[:8]}"


def ask(pipeline: Pipeline, session_id: str, *texts: str) -> SessionData:
    """Publishes these, and returns the session once all is answered."""
    before = stored(pipeline, session_id)
    count = (before.message_count if before else 0) + len(texts)

    async def publish() -> None:
        async with producer(pipeline.bootstrap_servers) as kafka:
            for text in texts:
                value = orjson.dumps({"text": text, "user_id": "user-1"})
                await kafka.send_and_wait(pipeline.topics.inbound, value, key=session_id.encode())

    def answered() -> SessionData | None:
        session = stored(pipeline, session_id)
        return session if session is not None and session.message_count == count else None

    asyncio.run(publish())
    session = wait_until(answered, "the answer is stored")
    assert session is not None
    return session


def stored(pipeline: Pipeline, session_id: str) -> SessionData | None:
    async def get() -> SessionData | None:
        store = session_store(pipeline)
        try:
            return await store.get(session_id)
        finally:
            await store.close()

    return asyncio.run(get())


def test_show_has_the_fields_and_the_newest_turns(pipeline: Pipeline, session_id: str) -> None:
    session = ask(pipeline, session_id, "first", "second", HOSTILE)
    shown = orjson.loads(pipeline.must("sessions", "show", session_id, "--turns", "50", "--json"))
    assert {name: shown[name] for name in ("session_id", "user_id", "seq", "created_at")} == {
        "session_id": session_id,
        "user_id": "user-1",
        "seq": 3,
        "created_at": session.created_at,
    }
    assert [turn["message"]["text"] for turn in shown["turns"]] == ["first", "second", HOSTILE]

    fields = pipeline.must("sessions", "show", session_id)
    assert ["user_id", "user-1"] in [line.split() for line in fields.splitlines()]
    assert ["message_count", "3"] in [line.split() for line in fields.splitlines()]
    assert "customer:" not in fields
    turns = pipeline.must("sessions", "show", session_id, "--turns", "2")
    assert "customer: first" not in turns
    assert "customer: second" in turns
    assert "late?" in turns
    assert "\x1b" not in turns, "a customer's text commands nobody's terminal"


def test_list_has_each_session_with_its_activity(pipeline: Pipeline, session_id: str) -> None:
    names = {f"{session_id}-{n}" for n in range(3)}
    for name in names:
        ask(pipeline, name, "hello")
    broken = f"{session_id}-broken"
    client = redis.Redis.from_url(pipeline.redis_url)
    client.hset(f"{pipeline.key_prefix}{{{broken}}}", "state", "{")

    listed = {each["session_id"]: each for each in orjson.loads(pipeline.must("sessions", "list", "--json"))}
    assert names | {broken} <= listed.keys()
    for name in names:
        assert listed[name]["message_count"] == 1
        assert listed[name]["last_activity"].startswith("20")
    assert "can't be read" in listed[broken]["error"]
    client.delete(f"{pipeline.key_prefix}{{{broken}}}")

    two = pipeline.run("sessions", "list", "--limit", "2")
    assert two.returncode == 0
    assert len(two.stdout.splitlines()) == 2
    assert "there are more than 2" in two.stderr
    every = pipeline.run("sessions", "list", "--limit", "1000")
    assert names <= {line.split()[0] for line in every.stdout.splitlines()}
    assert every.stderr == ""


def test_delete_says_what_it_would_do_and_then_publishes_that_it_did(pipeline: Pipeline, session_id: str) -> None:
    """R: the reply topic knows; and the worker, which has the session cached, begins it anew."""
    before = ask(pipeline, session_id, "first")
    said = pipeline.must("sessions", "delete", session_id)
    assert said.startswith(f"would delete {session_id} (messages: 1, last activity: 20")
    assert "--execute" in said
    assert stored(pipeline, session_id) is not None

    assert pipeline.must("sessions", "delete", session_id, "--execute") == f"deleted {session_id}\n"
    for arguments in [("show", session_id), ("delete", session_id), ("delete", session_id, "--execute")]:
        one_line(pipeline.run("sessions", *arguments), 1, f"There is no session {session_id}")
    assert session_id not in pipeline.must("sessions", "list", "--limit", "1000")

    after = ask(pipeline, session_id, "second")
    assert after.epoch > before.epoch
    log = wait_until(lambda: log_with(pipeline, session_id, after.epoch), "the second answer is published")
    assert log is not None
    events = log.first_replies()[session_id]
    assert [type(event) for event in events] == [TurnCompleted, SessionDeleted, TurnCompleted]
    assert log.folded()[session_id] == after


def log_with(pipeline: Pipeline, session_id: str, epoch: int) -> Log | None:
    """What the topics hold, if they have something of this epoch."""
    log = asyncio.run(read_log(pipeline))
    return log if any(event.epoch == epoch for event in log.first_replies().get(session_id, [])) else None


def test_sessions_in_memory_are_nobody_else_s(pipeline: Pipeline) -> None:
    one_line(pipeline.run("sessions", "list", REDIS_URL=""), 2, "REDIS_URL")


def test_delete_without_kafka_deletes_nothing(pipeline: Pipeline, session_id: str) -> None:
    ask(pipeline, session_id, "first")
    settings = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA_SEND_TIMEOUT_SECONDS": "2"}
    one_line(pipeline.run("sessions", "delete", session_id, "--execute", **settings), 1, "Kafka does not answer")
    assert stored(pipeline, session_id) is not None
