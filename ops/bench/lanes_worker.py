"""The consumer of `bench lanes`, in a process of its own: the product's group member, lanes and commits, with work of a
fixed length in place of a turn. Prints one JSON line (`Consumed`)."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import orjson
import uvloop

from ops.kafka.screened_consumer import ScreenedConsumer
from ops.logs import configure_logging
from ops.processes.serving import settle_memory
from store.l1 import L1Cache
from store.memory import MemorySessionStore
from store.protocol import Fence
from workers.app import GroupSettings, WorkerApp
from workers.cancellations import Cancellations
from workers.dispatch import Dispatcher, DispatchSettings
from workers.incarnations import Incarnations
from workers.marks import ReplyMarks
from workers.observer import SilentObserver
from workers.places import Place
from workers.records import Partition, Taken


@dataclass(frozen=True)
class Consumed:
    """What a run came to."""

    records: int
    """How many ran, those of the hot session included."""
    others: int
    """How many of them were not the hot session's."""
    seconds: float
    """From taking the first record to the end of the last one's work, the hot session's left out."""
    added_ms: list[float]
    """Of every record but the hot session's, how long its lane stood still before it: since the lane's work before
    ended, or since it was taken if that was later; with how long its work took beyond its length."""
    order_broken: int
    committed: int


HOT = "hot"
"""The session that has a queue of its own, where a run has one."""


class NoRepair:
    """Nothing is lost from a store in memory."""

    def noticed(self, sign: str) -> None: ...

    async def run(self, partitions: Iterable[Partition], fence: Fence) -> None: ...


class Work:
    """Takes the place of a turn."""

    def __init__(self, seconds: float, expected: int) -> None:
        self._seconds = seconds
        self._expected = expected
        self.first = 0.0
        self.last = 0.0
        self.done = 0
        self.added: list[float] = []
        self.order_broken = 0
        self.finished = asyncio.Event()
        self._lanes: dict[str, tuple[int, float]] = {}
        self._running: set[str] = set()

    async def __call__(self, taken: Taken, place: Place) -> None:
        await place.work()
        lane, offset = taken.lane, taken.record.offset
        begun = time.monotonic()
        before, ended = self._lanes.get(lane, (-1, 0.0))
        self.order_broken += lane in self._running or offset <= before
        self._running.add(lane)
        if not self.done:
            self.first = self.first or taken.taken_at
        if self._seconds:
            await asyncio.sleep(self._seconds)
        self._running.discard(lane)
        now = time.monotonic()
        self._lanes[lane] = (offset, now)
        if lane != HOT:
            self.last = now
            self.added.append(begun - max(ended, taken.taken_at) + (now - begun - self._seconds))
        self.done += 1
        if self.done == self._expected:
            self.finished.set()


async def consume(servers: str, topic: str, records: int, lanes: int, work_s: float) -> Consumed:
    """Consumes the topic's one partition, as a worker would."""
    group = GroupSettings(servers, (topic,), f"{topic}-lanes", consumer_class=ScreenedConsumer)
    app = WorkerApp(group, SilentObserver())
    store = MemorySessionStore(ttl_seconds=3_600)
    work = Work(work_s, records)

    async def learn_partitions(assigned: Iterable[Partition]) -> None: ...

    async def nothing_published() -> None: ...

    dispatcher = Dispatcher(
        run_turn=work,
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
        settings=DispatchSettings(concurrency=lanes + 1),
    )
    settle_memory()
    await app.start(dispatcher)
    try:
        await work.finished.wait()
    finally:
        await app.stop()
    partition = Partition(topic, 0)
    progress = await store.progress([str(partition)])
    return Consumed(
        records=work.done,
        others=len(work.added),
        seconds=work.last - work.first,
        added_ms=[round(seconds * 1000, 3) for seconds in work.added],
        order_broken=work.order_broken,
        committed=progress.get(str(partition), 0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--lanes", type=int, required=True)
    parser.add_argument("--work-ms", type=float, required=True)
    chosen = parser.parse_args()
    configure_logging("warning", "json")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        consumed = runner.run(
            consume(chosen.servers, chosen.topic, chosen.records, chosen.lanes, chosen.work_ms / 1000)
        )
    sys.stdout.buffer.write(orjson.dumps(asdict(consumed)))


if __name__ == "__main__":
    main()
