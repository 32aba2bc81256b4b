"""A process that writes one session again and again, beside another one (`test_two_processes`).

`python -m tests.contract.hammer REDIS_URL KEY_PREFIX SESSION_ID NAME OPERATIONS TURNS owner|visitor`

It says `ready`, begins once a line comes in, and ends with what it has done as one line of JSON. An owner's turns run
as those of the session's home partition, a visitor's under the lock; the other writes are direct ones.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from schemas.fold import MESSAGE_COUNT
from schemas.publishing import Position, Record
from store.direct import DirectSessions
from store.l1 import L1Cache
from store.locking import LockSettings
from store.protocol import Fence
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from store.seals import NO_KEYS
from tests.unit.workers.fakes import PARTITIONS, TOPICS, RecordingObserver, ScriptedGenerator, away, home, inbound
from workers.cancellations import Cancellations
from workers.clock import utc_now
from workers.generation.protocol import Answer, Emit, Question
from workers.marks import ReplyMarks
from workers.records import Assignment, Partition, take
from workers.turn import TurnParts, TurnProcessor

LOCK = LockSettings(lease_seconds=5.0, retry_attempts=12)


class SharedLog:
    """The reply topic of both processes: a list in Redis, whose indices are the offsets."""

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key

    async def publish(self, record: Record) -> Position:
        # As Kafka takes its time, now and then a lot; what was stored is not in the log yet, and others write.
        await asyncio.sleep(random.expovariate(1 / 0.004))
        length: int = await self._client.rpush(self._key, record.value)
        return Position(record.topic, record.partition or 0, length - 1)


class Thinking(ScriptedGenerator):
    """Takes a while for an answer, in which others write."""

    async def generate(self, question: Question, emit: Emit) -> Answer:
        await asyncio.sleep(0.003)
        return await super().generate(question, emit)


@dataclass(frozen=True)
class Hammer:
    """The writes of one process."""

    name: str
    session_id: str
    sessions: DirectSessions
    turns: TurnProcessor
    partition: Partition
    fence: Fence

    async def update(self, times: int) -> int:
        """Returns the number that it left in the metadata."""
        for n in range(1, times + 1):
            await self.sessions.update(self.session_id, {"metadata": {f"last-{self.name}": n}})
        return times

    async def increment(self, times: int) -> dict[str, int]:
        """Returns what it added, by counter."""
        added: dict[str, int] = {}
        for n in range(times):
            counter = ("shared", MESSAGE_COUNT, f"own-{self.name}")[n % 3]
            await self.sessions.increment_counter(self.session_id, counter, n % 5 + 1)
            added[counter] = added.get(counter, 0) + n % 5 + 1
        return added

    async def converse(self, times: int) -> int:
        """Returns how many turns it made."""
        assignment = Assignment(self.partition, 1, self.fence, 0, self.partition.topic)
        for offset in range(times):
            record = inbound(self.session_id, offset, at=self.partition, id=f"{self.name}-{offset}", text="Hello?")
            await self.turns.run(take(record, assignment, time.monotonic()))
            # A customer reads before writing again; who never paused would let nobody else get through.
            await asyncio.sleep(random.uniform(0.0, 0.02))
        return times


def now() -> tuple[int, str]:
    moment = utc_now()
    return moment.ms, moment.rfc3339


async def main(url: str, prefix: str, session_id: str, name: str, operations: str, turns: str, role: str) -> None:
    store = RedisSessionStore(connect(RedisSettings(url)), ttl_seconds=600, key_prefix=prefix, lock=LOCK)
    connections = connect(RedisSettings(url))
    log, observer = SharedLog(connections.client, f"{prefix}log"), RecordingObserver()
    parts = TurnParts(
        store=store,
        l1=L1Cache(size=10, ttl_seconds=600),
        publisher=log,
        topics=TOPICS,
        retriever=None,
        generator=Thinking(),
        cancellations=Cancellations(),
        observer=observer,
        marks=ReplyMarks(TOPICS.inbound),
    )
    processor = TurnProcessor(parts)
    processor.partitions = PARTITIONS
    hammer = Hammer(
        name,
        session_id,
        DirectSessions(store, log, reply_topic=TOPICS.replies, partitions=PARTITIONS, now=now, seals=NO_KEYS),
        processor,
        home(session_id) if role == "owner" else away(session_id),
        Fence("partition", await store.next_fence()),
    )
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    work: tuple[Awaitable[int], Awaitable[dict[str, int]], Awaitable[int]] = (
        hammer.update(int(operations)),
        hammer.increment(int(operations)),
        hammer.converse(int(turns)),
    )
    last, added, made = await asyncio.gather(*work)
    done = {"name": name, "last": last, "added": added, "turns": made, "observed": observer.seen}
    print(orjson.dumps(done).decode(), flush=True)
    await store.close()
    await connections.close()


if __name__ == "__main__":
    # Standard output is for what the test reads.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
    )
    asyncio.run(main(*sys.argv[1:]))
