"""What a worker's readiness says while records wait and nothing is done (invariant H)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.kafka.screened_consumer import ScreenedConsumer
from ops.local.kafka import KafkaServer
from store.l1 import L1Cache
from store.memory import MemorySessionStore
from store.protocol import Fence
from tests.polling import eventually
from tests.topic_records import producer
from workers import app as worker_app
from workers.app import GroupSettings, WorkerApp
from workers.cancellations import Cancellations
from workers.dispatch import Dispatcher, DispatchSettings
from workers.incarnations import Incarnations
from workers.marks import ReplyMarks
from workers.observer import SilentObserver
from workers.places import Place
from workers.records import Partition, Taken

WITHIN_S = 20.0


class Unheard(Exception):
    """A type of exception that the product does not know."""


class RaisingConsumer(ScreenedConsumer):
    """Its polls raise."""

    async def getmany(self, *partitions: Any, timeout_ms: int = 0, max_records: int | None = None) -> Any:
        raise Unheard("the client is out of order")


class SilentConsumer(ScreenedConsumer):
    """Its polls don't return."""

    async def getmany(self, *partitions: Any, timeout_ms: int = 0, max_records: int | None = None) -> Any:
        await asyncio.Event().wait()


class UncommittingConsumer(ScreenedConsumer):
    """The group takes no offsets."""

    async def commit(self, offsets: Any = None) -> None:
        raise Unheard("no offsets today")


class NoFences(MemorySessionStore):
    """A store that gives no right to write."""

    async def next_fence(self) -> int:
        raise Unheard("no fences today")


class NoRepair:
    def noticed(self, sign: str) -> None: ...

    async def run(self, partitions: Iterable[Partition], fence: Fence) -> None: ...


async def at_once(taken: Taken, place: Place) -> None:
    return None


async def never(taken: Taken, place: Place) -> None:
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes half a minute in the product takes a second here."""
    monkeypatch.setattr(worker_app, "STILL_SECONDS", 1.0)
    monkeypatch.setattr(worker_app, "LOOK_SECONDS", 0.2)


@pytest.fixture
async def topic(kafka: KafkaServer, topic_prefix: str) -> str:
    """A topic with one partition and three records."""
    name = f"{topic_prefix}inbound.v1"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()
    async with producer(kafka.bootstrap_servers) as client:
        for n in range(3):
            await client.send_and_wait(name, b'{"text": "Hello?"}', f"s{n}".encode(), 0)
    return name


@asynccontextmanager
async def worker(
    kafka: KafkaServer,
    topic: str,
    *,
    consumer: type[ScreenedConsumer] = ScreenedConsumer,
    run_turn: Callable[[Taken, Place], Awaitable[None]] = at_once,
    store: MemorySessionStore | None = None,
) -> AsyncIterator[WorkerApp]:
    """A member of a group of its own, on real Kafka."""
    app = WorkerApp(
        GroupSettings(kafka.bootstrap_servers, (topic,), f"{topic}-group", consumer_class=consumer), SilentObserver()
    )
    store = store or MemorySessionStore(ttl_seconds=60)

    async def learn_partitions(partitions: Iterable[Partition]) -> None: ...

    async def nothing_published() -> None: ...

    dispatcher = Dispatcher(
        run_turn=run_turn,
        store=store,
        l1=L1Cache(size=0, ttl_seconds=1),
        cancellations=Cancellations(),
        consumer=app.consumer,
        repair=NoRepair(),
        marks=ReplyMarks(topic),
        incarnations=Incarnations(store),
        learn_partitions=learn_partitions,
        settle_publishing=nothing_published,
        observer=SilentObserver(),
        settings=DispatchSettings(commit_interval=0.1, drain_timeout=0.1),
    )
    await app.start(dispatcher)
    try:
        yield app
    finally:
        await app.stop()


async def says(app: WorkerApp, *words: str) -> None:
    """Returns when readiness names all of these."""

    async def named() -> bool:
        told = "; ".join(app.problems())
        return all(word in told for word in words)

    await eventually(named, f"readiness says {words}: {app.problems()}", WITHIN_S)


async def test_a_worker_that_works_has_no_problems(kafka: KafkaServer, topic: str) -> None:
    async with worker(kafka, topic) as app:
        partition = Partition(topic, 0)

        async def done() -> bool:
            return (await app.consumer.committed_offsets([partition])).get(partition) == 3 and app.lag() == {}

        await eventually(done, "all is done", WITHIN_S)
        assert app.problems() == []


async def test_polls_that_raise_are_told(kafka: KafkaServer, topic: str) -> None:
    async with worker(kafka, topic, consumer=RaisingConsumer) as app:
        await says(app, "Kafka was not polled", "Unheard: the client is out of order")


async def test_polls_that_never_return_are_told(kafka: KafkaServer, topic: str) -> None:
    async with worker(kafka, topic, consumer=SilentConsumer) as app:
        await says(app, "Kafka was not polled")


async def test_commits_that_fail_are_told(kafka: KafkaServer, topic: str) -> None:
    async with worker(kafka, topic, consumer=UncommittingConsumer) as app:
        await says(app, "offsets could not be committed", "Unheard: no offsets today")


async def test_partitions_that_do_not_become_ready_are_told(kafka: KafkaServer, topic: str) -> None:
    async with worker(kafka, topic, store=NoFences(ttl_seconds=60)) as app:
        await says(app, f"{topic}:0", "not ready to be worked on", "Unheard: no fences today")


async def test_records_that_wait_while_nothing_is_done_are_told(kafka: KafkaServer, topic: str) -> None:
    async with worker(kafka, topic, run_turn=never) as app:
        await says(app, f"{topic}:0", "3 records wait")
        assert app.lag()[f"{topic}:0"]["records"] == 3


async def test_a_task_that_fails_again_and_again_ends_the_worker(
    kafka: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than that it is alive and idle."""
    monkeypatch.setattr(worker_app, "RESTART_PAUSE_SECONDS", 0.01)

    async def broken(self: Dispatcher) -> None:
        raise Unheard("the commit loop is out of order")

    monkeypatch.setattr(Dispatcher, "commit_regularly", broken)
    async with worker(kafka, topic) as app:
        error = await asyncio.wait_for(app.failed, WITHIN_S)
        assert isinstance(error, Unheard)
