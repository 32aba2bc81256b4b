"""Following the knowledge topic, against a consumer by hand; the real one is in the integration tests."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError

from tests.unit.retrieval.fakes import FakeConsumer, FakeLog, HashEncoder, record
from workers.retrieval.follow import KnowledgeFollower
from workers.retrieval.knowledge import KnowledgeState
from workers.retrieval.retriever import KnowledgeRetriever

DEADLINE_S = 5


def _follower(log: FakeLog, topic: str = "knowledge") -> KnowledgeFollower:
    return KnowledgeFollower(
        topic, lambda: cast(AIOKafkaConsumer, FakeConsumer(log)), lambda: KnowledgeState("hash", 8)
    )


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        await asyncio.sleep(0.002)


def test_ready_has_everything_that_was_there_and_then_follows() -> None:
    async def run() -> None:
        log = FakeLog("knowledge", [record("a"), record("b"), (b"a", None), (b"c", b"{")])
        follower = _follower(log)
        assert not follower.is_ready
        follower.start()
        await asyncio.wait_for(follower.ready(), DEADLINE_S)
        before = follower.index
        assert (before.documents, list(follower.refused), follower.problem) == (1, ["c"], None)
        log.records += [record("d"), record("e")]
        await _until(lambda: follower.index.documents == 3)
        assert before.documents == 1
        retriever = KnowledgeRetriever(HashEncoder(), lambda: follower.index, k=2)
        found = await retriever.retrieve("d\nSome text.")
        assert found.passages[0].passage == "Some text."
        assert found.kb_version == follower.index.kb_version
        await follower.stop()
        await follower.stop()
        assert log.started == log.stopped == 1

    asyncio.run(run())


def test_it_survives_a_broker_that_is_away_at_start_and_later() -> None:
    async def run() -> None:
        log = FakeLog("knowledge", [record("a")])
        log.failures = [KafkaConnectionError("away"), RuntimeError("bug")]
        follower = _follower(log)
        follower.start()
        await asyncio.wait_for(follower.ready(), DEADLINE_S)
        log.failures.append(KafkaConnectionError("away again"))
        await _until(lambda: follower.problem is not None)
        assert follower.index.documents == 1
        log.records.append(record("b"))
        await _until(lambda: follower.index.documents == 2)
        assert follower.problem is None
        await follower.stop()
        assert log.started == log.stopped == 4

    asyncio.run(run())


def test_a_missing_topic_is_named_with_what_to_do() -> None:
    async def run() -> None:
        follower = _follower(FakeLog("other"))
        follower.start()
        await _until(lambda: "topics create" in (follower.problem or ""))
        await follower.stop()

    asyncio.run(run())
