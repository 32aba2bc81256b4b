"""A topic in memory, and consumers of it that fail as they are told."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

TOPIC = "t"


@dataclass(frozen=True)
class Written:
    """A record as a consumer returns it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@dataclass
class Topic:
    """Its logs, and what goes wrong next at each call of its consumers, in the order in which it was told."""

    partitions: int = 1
    logs: defaultdict[int, list[Written]] = field(default_factory=lambda: defaultdict(list))
    failures: defaultdict[str, deque[BaseException]] = field(default_factory=lambda: defaultdict(deque))
    markers: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Per partition, transaction markers behind the last record."""
    mute: set[int] = field(default_factory=set)
    """Partitions of which no record comes."""
    deaf: bool = False
    """The log's ends aren't told."""
    loses_on_failure: bool = True
    """As aiokafka: `getmany` that raises has moved on past what it had gathered."""
    looks: int = 0
    """How often its end was looked at over a reader's own consumer."""
    made: list["Consumer"] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, value: bytes | None, key: bytes | None = b"k", partition: int = 0) -> int:
        """The offset."""
        log = self.logs[partition]
        log.append(Written(partition, len(log), key, value))
        self.wake()
        return len(log) - 1

    def wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def fail(self, call: str, *errors: BaseException) -> None:
        """The next times that a consumer's `call` is made it raises these."""
        self.failures[call].extend(errors)
        self.wake()

    def consumer(self) -> Any:
        self.made.append(Consumer(self))
        return self.made[-1]

    @property
    def open_consumers(self) -> int:
        return sum(consumer.started and not consumer.stopped for consumer in self.made)

    async def ends(self, topic: str, partitions: Collection[int]) -> Mapping[int, int]:
        """Over a connection of its own."""
        self.raise_next("log_ends")
        return {number: self.end(number) for number in partitions}

    def end(self, partition: int) -> int:
        return len(self.logs[partition]) + self.markers[partition]

    def raise_next(self, call: str) -> None:
        if self.failures[call]:
            raise self.failures[call].popleft()

    async def news(self, seconds: float) -> None:
        event = self._news
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return


class Consumer:
    """What a reader asks of an `AIOKafkaConsumer`."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._positions: dict[TopicPartition, int] = {}
        self.started = self.stopped = False

    async def start(self) -> None:
        self.started = True
        self._topic.raise_next("start")

    async def stop(self) -> None:
        self.stopped = True
        self._topic.raise_next("stop")

    def assign(self, places: Sequence[TopicPartition]) -> None:
        self._topic.raise_next("assign")
        # Where it would begin by itself: nowhere that a reader wants to begin.
        self._positions = dict.fromkeys(places, 0)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._topic.raise_next("seek")
        self._positions[place] = offset

    async def position(self, place: TopicPartition) -> int:
        self._topic.raise_next("position")
        position = self._positions[place]
        behind_markers = position >= len(self._topic.logs[place.partition])
        return position + self._topic.markers[place.partition] if behind_markers else position

    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self._topic.looks += 1
        self._topic.raise_next("end_offsets")
        if self._topic.deaf:
            await asyncio.Event().wait()
        return {place: self._topic.end(place.partition) for place in places}

    async def beginning_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self._topic.raise_next("beginning_offsets")
        return dict.fromkeys(places, 0)

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Written]]:
        assert self.started
        assert not self.stopped
        if not self._failing and not (found := self._gather()):
            await self._topic.news(timeout_ms / 1000)
        found = {} if self._failing and not self._topic.loses_on_failure else self._gather()
        for place, records in found.items():
            self._positions[place] = records[-1].offset + 1
        self._topic.raise_next("getmany")
        return found

    @property
    def _failing(self) -> bool:
        return bool(self._topic.failures["getmany"])

    def _gather(self) -> dict[TopicPartition, list[Written]]:
        return {
            place: records
            for place, position in self._positions.items()
            if place.partition not in self._topic.mute and (records := self._topic.logs[place.partition][position:])
        }
