"""A dispatcher with a consumer and turns by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import ClassVar

from aiokafka.errors import KafkaError

from store.l1 import L1Cache
from store.memory import MemorySessionStore
from store.protocol import Fence
from tests.unit.workers.fakes import TOPICS, FakeRecord, inbound, until
from workers.cancellations import Cancellations
from workers.dispatch import Dispatcher, DispatchSettings
from workers.incarnations import Incarnations
from workers.marks import ReplyMarks
from workers.observer import SilentObserver
from workers.places import Place
from workers.records import Partition, Taken

P0, P1 = Partition(TOPICS.inbound, 0), Partition(TOPICS.inbound, 1)


class FakeConsumer:
    """A group with one member, and a log per partition that it reads on request."""

    def __init__(self) -> None:
        self.logs: dict[Partition, list[FakeRecord]] = {P0: [], P1: []}
        self.committed: dict[Partition, int] = {}
        self.commits: list[dict[Partition, int]] = []
        self.begins: dict[Partition, int] = {}
        self.paused: set[Partition] = set()
        self.positions: dict[Partition, int] = {P0: 0, P1: 0}
        self.refusals: list[KafkaError] = []
        self.on_log_end: Callable[[], None] = lambda: None

    def produce(self, partition: Partition, *sessions: str) -> None:
        for session_id in sessions:
            log = self.logs[partition]
            log.append(inbound(session_id, len(log), at=partition, id=f"{session_id}-{len(log)}", text="Hello"))

    def poll(self, partition: Partition) -> list[FakeRecord]:
        if partition in self.paused:
            return []
        records = self.logs[partition][self.positions[partition] :]
        self.positions[partition] = len(self.logs[partition])
        return records

    async def commit(self, offsets: dict[Partition, int]) -> None:
        await asyncio.sleep(0)
        if self.refusals:
            raise self.refusals.pop(0)
        self.commits.append(dict(offsets))
        self.committed.update(offsets)

    async def committed_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {partition: self.committed[partition] for partition in partitions if partition in self.committed}

    def seek(self, partition: Partition, offset: int) -> None:
        self.positions[partition] = offset

    async def log_begin(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {partition: self.begins.get(partition, 0) for partition in partitions}

    async def log_end(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        await asyncio.sleep(0)
        self.on_log_end()
        return {partition: len(self.logs[partition]) for partition in partitions}

    def pause(self, partition: Partition) -> None:
        self.paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self.paused.discard(partition)


class FakeRepair:
    """Counts what it was asked to repair, and under which signs."""

    def __init__(self) -> None:
        self.signs: list[str] = []
        self.repaired: list[set[Partition]] = []
        self.on_run: Callable[[], None] = lambda: None

    def noticed(self, sign: str) -> None:
        self.signs.append(sign)

    async def run(self, partitions: Iterable[Partition], fence: Fence) -> None:
        await asyncio.sleep(0)
        self.repaired.append(set(partitions))
        self.on_run()


class Lost(SilentObserver):
    """Counts what retention took."""

    def __init__(self) -> None:
        self.count = 0

    def records_lost(self, count: int) -> None:
        self.count += count


class ManualTurns:
    """Turns that end when told to."""

    def __init__(self) -> None:
        self.started: list[Taken] = []
        self.running: list[tuple[Taken, asyncio.Future[None]]] = []
        self.cancelled: list[int] = []
        self.hold = True

    async def __call__(self, taken: Taken, place: Place) -> None:
        await place.work()
        self.started.append(taken)
        if not self.hold:
            return
        turn: tuple[Taken, asyncio.Future[None]] = (taken, asyncio.get_running_loop().create_future())
        self.running.append(turn)
        try:
            await turn[1]
        except asyncio.CancelledError:
            self.cancelled.append(taken.record.offset)
            raise
        finally:
            self.running.remove(turn)

    @property
    def offsets(self) -> list[int]:
        return [taken.record.offset for taken in self.started]

    async def end(self, offset: int, error: Exception | None = None, *, partition: Partition = P0) -> None:
        """Ends the turn of the record at `offset` that has run longest, as soon as there is one."""

        def running() -> list[tuple[Taken, asyncio.Future[None]]]:
            return [turn for turn in self.running if turn[0].assignment.partition == partition and at(turn) == offset]

        def at(turn: tuple[Taken, asyncio.Future[None]]) -> int:
            return turn[0].record.offset

        await until(lambda: bool(running()))
        turn = running()[0]
        if error is None:
            turn[1].set_result(None)
        else:
            turn[1].set_exception(error)
        await until(lambda: turn not in self.running)
        await asyncio.sleep(0)


class Rig:
    """A dispatcher with its fakes; `everything_stops` ends it with the test."""

    made: ClassVar[list["Rig"]] = []

    def __init__(
        self,
        store: MemorySessionStore | None = None,
        *,
        max_open: int = 100,
        drain: float = 0.0,
        queue_drain: float = 60.0,
        repair: FakeRepair | None = None,
        concurrency: int = 8,
        run_turn: Callable[[Taken, Place], Awaitable[None]] | None = None,
    ) -> None:
        """`run_turn`: in place of turns that end when told to."""
        self.consumer = FakeConsumer()
        self.turns = ManualTurns()
        self.store = store or MemorySessionStore(ttl_seconds=60)
        self.cancellations = Cancellations()
        self.l1 = L1Cache(size=10, ttl_seconds=60)
        self.repair = repair or FakeRepair()
        self.incarnations = Incarnations(self.store)
        self.marks = ReplyMarks(TOPICS.inbound)
        self.observer = Lost()
        self.running_when_settled: list[int] = []
        self.made.append(self)
        turns: Callable[[Taken, Place], Awaitable[None]] = run_turn or self.turns
        self.dispatcher = Dispatcher(
            run_turn=turns,
            store=self.store,
            l1=self.l1,
            cancellations=self.cancellations,
            consumer=self.consumer,
            repair=self.repair,
            marks=self.marks,
            incarnations=self.incarnations,
            learn_partitions=self.learn_partitions,
            settle_publishing=self.settle_publishing,
            observer=self.observer,
            settings=DispatchSettings(
                concurrency=concurrency,
                max_open_per_partition=max_open,
                drain_timeout=drain,
                queue_drain_timeout=queue_drain,
            ),
        )

    async def settle_publishing(self) -> None:
        self.running_when_settled.append(len(self.turns.running))

    async def learn_partitions(self, assigned: Iterable[Partition]) -> None:
        await asyncio.sleep(0)

    async def assign(self, *partitions: Partition) -> None:
        for partition in partitions:
            self.consumer.positions[partition] = self.consumer.committed.get(partition, 0)
        await self.dispatcher.assigned(partitions)
        await until(lambda: set(partitions) <= self.dispatcher.assignments.keys() | self.dispatcher.refused.keys())

    def feed(self, *partitions: Partition) -> None:
        for partition in partitions:
            self.dispatcher.accept(self.consumer.poll(partition))


@asynccontextmanager
async def working(
    *sessions: str,
    max_open: int = 100,
    drain: float = 0.0,
    queue_drain: float = 60.0,
    repair: FakeRepair | None = None,
) -> AsyncIterator[Rig]:
    """A rig that owns P0 and has taken a record of each session."""
    rig = Rig(max_open=max_open, drain=drain, queue_drain=queue_drain, repair=repair)
    rig.consumer.produce(P0, *sessions)
    await rig.assign(P0)
    rig.feed(P0)
    await asyncio.sleep(0)
    yield rig
