"""Stand-ins for Kafka and for the generator, and a worker's turn put together from them."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from schemas.partition import home_partition
from schemas.publishing import Position, Record
from schemas.replies import ReplyEvent, TurnCompleted, decode_reply
from schemas.session import SessionData
from schemas.topics import TopicNames
from store.l1 import L1Cache
from store.memory import MemorySessionStore
from store.protocol import Fence, SessionStore
from store.sealing import SealingPublisher
from store.seals import NO_KEYS, Seals
from workers.cancellations import Cancellations
from workers.clock import Moment
from workers.dead_letters import DeadLetters
from workers.generation.protocol import Answer, Emit, Question
from workers.marks import ReplyMarks
from workers.observer import LockReason
from workers.places import own_place
from workers.records import Assignment, Partition, Taken, take
from workers.recovery import ResilientTurns, RetrySettings
from workers.turn import TurnParts, TurnProcessor

TOPICS = TopicNames()
PARTITIONS = 12
DEADLINE_S = 5.0


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks go on until `condition` holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        await asyncio.sleep(0.001)


@dataclass(frozen=True)
class FakeRecord:
    """A consumer record."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def home(session_id: str) -> Partition:
    return Partition(TOPICS.inbound, home_partition(session_id, PARTITIONS))


def away(session_id: str) -> Partition:
    """A partition that is not the session's home."""
    return Partition(TOPICS.inbound, (home(session_id).partition + 1) % PARTITIONS)


def inbound(
    session_id: str,
    offset: int,
    *,
    at: Partition | None = None,
    keyed: bool = True,
    headers: list[tuple[str, bytes]] | None = None,
    **body: object,
) -> FakeRecord:
    """A record of the inbound topic, in the session's home partition unless `at` says otherwise."""
    topic, partition = at or home(session_id)
    key = session_id.encode() if keyed else None
    value = orjson.dumps({"session_id": session_id, **body})
    return FakeRecord(topic, partition, offset, key, value, headers or [])


class Killed(BaseException):
    """Ends a turn where it stands, as the end of its process would: nothing of the product handles it."""


class FakePublisher:
    """Keeps what was acknowledged, by topic. Fails as `failures` say: before a record is in the log, or, where it
    is `lost`, after it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.failures: dict[str, deque[BaseException | None]] = {}
        self.lost: dict[str, deque[BaseException | None]] = {}

    async def publish(self, record: Record) -> Position:
        await asyncio.sleep(0)
        if (failures := self.failures.get(record.topic)) and (error := failures.popleft()):
            raise error
        self.records.append(record)
        if (lost := self.lost.get(record.topic)) and (error := lost.popleft()):
            raise error
        return Position(record.topic, record.partition or 0, len(self.records))

    def fail(self, topic: str, *errors: BaseException | None) -> None:
        """The next sends to `topic` end so; None lets one pass."""
        self.failures.setdefault(topic, deque()).extend(errors)

    def lose_acknowledgement(self, topic: str, *errors: BaseException | None) -> None:
        """The same, but the record is in the log all the same."""
        self.lost.setdefault(topic, deque()).extend(errors)

    def of(self, topic: str) -> list[Record]:
        return [record for record in self.records if record.topic == topic]

    @property
    def replies(self) -> list[ReplyEvent]:
        return [decode_reply(record.value or b"") for record in self.of(TOPICS.replies)]

    @property
    def seqs(self) -> list[int]:
        """The seq of every reply event, in the order of the log, repetitions left out."""
        return list(dict.fromkeys(event.seq for event in self.replies))

    def contents_of(self, inbound_id: str) -> set[bytes]:
        """The different bytes that were published as the answer to one inbound id."""
        return {
            record.value or b""
            for record in self.of(TOPICS.replies)
            if decode_reply(record.value or b"").inbound_id == inbound_id
        }


class ScriptedGenerator:
    """Answers with a number that never repeats, so that generating twice shows. `errors` come first; `gate`, when
    set, holds every answer until it opens; `pieces` stream before it."""

    name = "scripted"
    retrieves = False

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sessions: list[SessionData | None] = []
        self.errors: deque[Exception] = deque()
        self.gate: asyncio.Event | None = None
        self.pieces: list[str] = []
        self.answer: Callable[[Question, int], Answer] = lambda question, n: Answer(
            f"Answer {n} to {question.message.text}"
        )
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def generate(self, question: Question, emit: Emit) -> Answer:
        self.calls.append(question.message.id)
        self.sessions.append(question.session)
        number = len(self.calls)
        for piece in self.pieces:
            await emit(piece)
        if self.gate is not None:
            await self.gate.wait()
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        if self.errors:
            raise self.errors.popleft()
        return self.answer(question, number)


class RecordingObserver:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def turn_finished(self, outcome: str, seconds: float) -> None:
        self.seen[f"turn:{outcome}"] += 1

    def lock_path(self, reason: LockReason) -> None:
        self.seen[f"lock:{reason}"] += 1

    def stale_write(self) -> None:
        self.seen["stale"] += 1

    def fenced_write(self) -> None:
        self.seen["fenced"] += 1

    def retried(self, error: str) -> None:
        self.seen[f"retried:{error}"] += 1

    def dead_letter(self, reason: str) -> None:
        self.seen[f"dlq:{reason}"] += 1

    def republished(self) -> None:
        self.seen["republished"] += 1

    def records_lost(self, count: int) -> None:
        self.seen["lost"] += count

    def commit_failed(self) -> None:
        self.seen["commit failed"] += 1

    def poll_failed(self) -> None:
        self.seen["poll failed"] += 1

    def partition_unreadable(self, topic: str, partition: int, unreadable: bool) -> None:
        self.seen[f"{topic}:{partition} unreadable"] = int(unreadable)


class Clock:
    """Each turn is decided a second after the one before."""

    def __init__(self) -> None:
        self.ms = 1_767_323_045_000

    def __call__(self) -> Moment:
        self.ms += 1_000
        return Moment(self.ms, f"{datetime.fromtimestamp(self.ms / 1_000, UTC):%Y-%m-%dT%H:%M:%S}.000Z")


class Worker:
    """One worker's turns over a store and a log that it may share with others. A new one knows nothing: a restart."""

    def __init__(
        self,
        store: SessionStore | None = None,
        publisher: FakePublisher | None = None,
        *,
        token: int = 1,
        clock: Clock | None = None,
        lock_everything: bool = False,
        attempts: int = 3,
        seals: Seals = NO_KEYS,
    ) -> None:
        self.seals = seals
        self.store = store or MemorySessionStore(ttl_seconds=3_600)
        self.publisher = publisher or FakePublisher()
        self.generator = ScriptedGenerator()
        self.observer = RecordingObserver()
        self.cancellations = Cancellations()
        self.l1 = L1Cache(size=100, ttl_seconds=3_600)
        self.clock = clock or Clock()
        self.token = token
        sealing = SealingPublisher(self.publisher, seals)
        self.turns = TurnProcessor(
            TurnParts(
                store=self.store,
                l1=self.l1,
                publisher=sealing,
                topics=TOPICS,
                retriever=None,
                generator=self.generator,
                cancellations=self.cancellations,
                observer=self.observer,
                marks=ReplyMarks(TOPICS.inbound),
                seals=seals,
                lock_everything=lock_everything,
            ),
            now=self.clock,
        )
        self.turns.partitions = PARTITIONS
        self.resilient = ResilientTurns(
            self.turns,
            DeadLetters(sealing, TOPICS.dlq),
            self.observer,
            RetrySettings(attempts=attempts, wait_initial_seconds=0.001, wait_max_seconds=0.002),
        )

    def restarted(self, token: int | None = None, seals: Seals | None = None) -> "Worker":
        """Another process over the same store and log, with a later right."""
        return Worker(
            self.store, self.publisher, token=token or self.token + 1, clock=self.clock, seals=seals or self.seals
        )

    def take(self, record: FakeRecord) -> Taken:
        partition = Partition(record.topic, record.partition)
        return take(
            record, Assignment(partition, 1, Fence("partition", self.token), 0, partition.topic), time.monotonic()
        )

    async def turn(self, record: FakeRecord) -> None:
        """One attempt."""
        await self.turns.run(self.take(record))

    async def run(self, *records: FakeRecord) -> None:
        """With retries and dead letters, as the lanes do it."""
        for record in records:
            await self.resilient.run(self.take(record), own_place())

    async def session(self, session_id: str) -> SessionData:
        session = await self.store.get(session_id)
        assert session is not None
        return session


def answer_texts(events: Iterable[ReplyEvent]) -> list[str]:
    return [event.reply.text for event in events if isinstance(event, TurnCompleted) and event.reply]
