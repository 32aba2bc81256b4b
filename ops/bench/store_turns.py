"""Whole turns of a worker on its store: of sessions that have just begun, and of sessions with a thousand behind them.

Everything is the product's but Kafka and the generator: a turn is read, decided, folded, encoded, committed.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from uuid import uuid4

from ops.bench.conversations import ANSWER, message
from ops.bench.side_figures import Figures
from ops.bench.timing import Call, in_flight_s, one_at_a_time_s
from schemas.identity import MINTED_PREFIX
from schemas.inbound import encode_inbound
from schemas.partition import home_partition
from schemas.publishing import Position, Record
from schemas.session import SessionData
from schemas.topics import TopicNames
from store.l1 import L1Cache
from store.protocol import Fence, SessionStore
from workers.cancellations import Cancellations
from workers.generation.null import NullGenerator
from workers.marks import ReplyMarks
from workers.observer import SilentObserver
from workers.records import Assignment, Partition, Taken, take
from workers.turn import TurnParts, TurnProcessor

SESSIONS = 25
"""Measured one after the other, before the other age has its turns."""
LATE_SESSIONS = 4 * SESSIONS
"""So many that a bench of ten minutes doesn't take them to their two thousandth turn."""
LONG_TURNS = 1_000
EARLY_TURNS = 9
"""The second to the ninth turn count as early."""
PARTITIONS = 12
TOPICS = TopicNames()


@dataclass(frozen=True)
class InboundRecord:
    """A consumer record as the worker reads it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class AcknowledgingPublisher:
    """Stands for Kafka, and takes no time."""

    async def publish(self, record: Record) -> Position:
        return Position(record.topic, record.partition or 0, 0)


class Turns:
    """Measures turns of early and of late sessions by turns, with the session in the worker's cache and without."""

    def __init__(self, store: SessionStore, fence: Fence) -> None:
        self._store = store
        self._fence = fence
        self._late: list[str] = []
        self._offsets = itertools.count()
        self._cache = L1Cache(size=10_000, ttl_seconds=3_600)
        self._processor = TurnProcessor(
            TurnParts(
                store=store,
                l1=self._cache,
                publisher=AcknowledgingPublisher(),
                topics=TOPICS,
                retriever=None,
                generator=NullGenerator(ANSWER.text),
                cancellations=Cancellations(),
                observer=SilentObserver(),
                marks=ReplyMarks(TOPICS.inbound),
            )
        )
        self._processor.partitions = PARTITIONS

    async def prepare(self, long_turns: int = LONG_TURNS) -> None:
        """Lets the late sessions come to their age; takes half a minute."""
        self._late = new_sessions(LATE_SESSIONS)
        await in_flight_s([self._turns(session_id, long_turns) for session_id in self._late])

    async def one_at_a_time(self, seconds: float) -> Figures:
        """What a turn costs early and late, the median of each; both share `seconds`."""
        early: list[str] = []
        late: list[str] = []
        taken_us: dict[str, list[float]] = defaultdict(list)
        deadline = time.perf_counter() + seconds
        while not early or time.perf_counter() < deadline:
            early = new_sessions(SESSIONS)
            late, self._late = self._late[:SESSIONS], [*self._late[SESSIONS:], *self._late[:SESSIONS]]
            # The store is asked for a session that isn't there yet: a round trip that no later turn makes.
            taken_us["first_turn_us"] += await self._turn_us(early)
            for _ in range(1, EARLY_TURNS, 2):
                taken_us["early_turn_us"] += await self._turn_us(early)
                taken_us["turn_1000_us"] += await self._turn_us(late)
                for session_id in (*early, *late):
                    self._cache.drop(session_id)
                taken_us["uncached_early_turn_us"] += await self._turn_us(early)
                taken_us["uncached_turn_1000_us"] += await self._turn_us(late)
        young, old = await self._session(early[0]), await self._session(late[0])
        return {
            **{name: median(samples) for name, samples in taken_us.items()},
            "early_state_bytes": len(young.to_json()),
            "turn_1000_state_bytes": len(old.to_json()),
            "turn_1000_last_seq": old.seq,
        }

    async def _turn_us(self, session_ids: Sequence[str]) -> list[float]:
        """How long the next turn of each session takes."""
        lanes = [list(self._turns(session_id, 1)) for session_id in session_ids]
        return [each * 1e6 for each in await one_at_a_time_s(lanes)]

    def _turns(self, session_id: str, turns: int) -> Iterator[Call]:
        for _ in range(turns):
            yield partial(self._processor.run, self._taken(session_id))

    def _taken(self, session_id: str) -> Taken:
        """The record of the customer's next message, as a lane has it."""
        place = Partition(TOPICS.inbound, home_partition(session_id, PARTITIONS))
        value = encode_inbound(message(session_id))
        record = InboundRecord(place.topic, place.partition, next(self._offsets), session_id.encode(), value)
        return take(record, Assignment(place, 1, self._fence, 0, place.topic), time.monotonic())

    async def _session(self, session_id: str) -> SessionData:
        session = await self._store.get(session_id)
        assert session is not None, "it has just had a turn"
        return session


def new_sessions(count: int) -> list[str]:
    return [f"{MINTED_PREFIX}{uuid4()}" for _ in range(count)]
