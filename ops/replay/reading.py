"""Reads reply partitions into a working copy, some at a time: memory doesn't grow with the topic."""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import chain

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from ops.errors import OpsError
from ops.kafka.reading import read_spans
from ops.replay.fold import Event, fold
from ops.replay.selection import Selection
from schemas.errors import NewerSchema
from schemas.partition import home_partition
from schemas.replies import decode_reply
from schemas.sealed import is_sealed
from schemas.session import SessionData
from store.redis.working_copy import Folded, Step, WorkingCopy

log = structlog.get_logger(__name__)

_BATCH_RECORDS = 48_000
"""What is folded and written at once: the more of a session's events, the fewer writes."""
_KEPT_SESSIONS = 4_000
"""Sessions kept as they were folded last: most conversations go on soon."""
_CONFLICTS = 10
_SWEEP_AT_LEAST_SECONDS = 3_600.0
_LATE_SECONDS = 3_600.0
"""A turn that began before its session expired may be committed after that."""

_UNREADABLE, _ERASED = "unreadable:", "erased:"
"""How a working copy's progress names what a reader counts."""

Spans = Mapping[int, tuple[int, int]]
"""Per reply partition where to begin and where to end."""


class Reading:
    """One process's part of a rebuild. What it has done is in the working copy after every batch."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        copy: WorkingCopy,
        topic: str,
        selection: Selection,
        may_go_on: Callable[[], bool],
        *,
        ttl_seconds: float,
        records_per_second: int | None = None,
    ) -> None:
        """`may_go_on` is asked before every batch; False ends the reading with an error. `ttl_seconds`: how long a
        session lives that says nothing else."""
        self._consumer = consumer
        self._topic = topic
        self._selection = selection
        self._may_go_on = may_go_on
        self._folding = Folding(copy)
        self._copy = copy
        self._ttl_seconds = ttl_seconds
        self._records_per_second = records_per_second
        self._times: dict[int, float] = {}
        """Of the newest record that was read of each partition, in seconds since 1970."""
        self._swept_at: dict[int, float] = {}
        self._read: defaultdict[bytes | None, list[bytes | None]] = defaultdict(list)
        """What was read and not yet folded, by key."""
        self._counted_before: dict[str, int] = {}
        """By earlier readers of the same spans, which were killed."""

    async def run(self, spans: Spans) -> None:
        """Folds the records of these spans.

        Raises:
            OpsError: the broker fell silent, or it may not go on.
            StoreError, KafkaError
        """
        if not spans:
            return
        progress = await self._copy.progress()
        self._counted_before = {
            name: progress.get(name, 0) for name in (f"{_UNREADABLE}{min(spans)}", f"{_ERASED}{min(spans)}")
        }
        places = {TopicPartition(self._topic, n): span for n, span in spans.items()}
        at_once = min(_BATCH_RECORDS, self._records_per_second or _BATCH_RECORDS)
        taken = 0
        unsaved: dict[TopicPartition, int] = {}
        async for batches, reached in read_spans(self._consumer, places, max_records=at_once):
            for record in chain.from_iterable(batches.values()):
                self._read[record.key].append(record.value)
            self._times.update({place.partition: records[-1].timestamp / 1000 for place, records in batches.items()})
            unsaved |= reached
            taken += sum(map(len, batches.values()))
            if taken >= at_once:
                await self._write(unsaved, taken)
                unsaved, taken = {}, 0
        await self._write(unsaved, taken)

    async def _write(self, reached: Mapping[TopicPartition, int], records: int) -> None:
        self._take()
        await self._folding.flush()
        await self._sweep_sometimes()
        if not self._may_go_on():
            raise OpsError("Another replay took over, or who started this process is gone.")
        if self._records_per_second:
            await asyncio.sleep(records / self._records_per_second)
        offsets = {position_of(at.partition): offset for at, offset in reached.items()}
        counts = (self._folding.unreadable, self._folding.erased)
        counted = {
            name: before + count for (name, before), count in zip(self._counted_before.items(), counts, strict=True)
        }
        await self._copy.save_progress({**offsets, **counted})

    async def _sweep_sometimes(self) -> None:
        """Once in a session's life, by the clock of the records, forgets what had expired by then: a topic of years
        doesn't fill Redis with sessions that are long gone. Of each partition by its own records, for they are not
        read at the same pace."""
        life = max(self._ttl_seconds, _SWEEP_AT_LEAST_SECONDS)
        if any(now > self._swept_at.setdefault(n, now) + life for n, now in self._times.items()):
            self._swept_at = dict(self._times)
            await self._folding.forget(self._has_ended)

    def _has_ended(self, session: SessionData) -> bool:
        partitions = len(self._consumer.partitions_for_topic(self._topic) or ())
        home = home_partition(session.session_id, partitions) if partitions else -1
        return session.expires_at(self._ttl_seconds) < self._times.get(home, 0.0) - _LATE_SECONDS

    def _take(self) -> None:
        read, self._read = self._read, defaultdict(list)
        for key, values in read.items():
            try:
                session_id = (key or b"").decode()
            except UnicodeDecodeError:
                session_id = ""
            # By the key, which is cheap: what is not meant need not be decoded.
            if self._selection.takes_id(session_id):
                self._folding.take(session_id, values)


class Folding:
    """Takes events, folds and writes them."""

    def __init__(self, copy: WorkingCopy) -> None:
        self._copy = copy
        self._taken: dict[str, list[bytes]] = defaultdict(list)
        self._known: OrderedDict[str, Folded] = OrderedDict()
        self.unreadable = 0
        """Records that are no reply event of the session that they are keyed by."""
        self.erased = 0
        """Records that nobody can read any more."""

    def take(self, session_id: str, values: Iterable[bytes | None]) -> None:
        """The values of reply records of a session, by their key."""
        self._taken[session_id].extend(value or b"" for value in values)

    async def flush(self) -> None:
        """Folds and writes what was taken.

        Raises:
            OpsError: an event is one of a later version.
        """
        taken, self._taken = self._taken, defaultdict(list)
        for _ in range(_CONFLICTS):
            if not taken:
                return
            taken = await self._write(taken)
        raise OpsError("Somebody else writes to the same working copy all the time.")

    async def _write(self, taken: Mapping[str, list[bytes]]) -> dict[str, list[bytes]]:
        """Returns the records of sessions that somebody else has folded on meanwhile."""
        await self._learn([session_id for session_id in taken if session_id not in self._known])
        steps: list[Step] = []
        held: dict[str, Sequence[bytes]] = {}
        for session_id, values in taken.items():
            step, early = fold(self._known[session_id], self._events(session_id, values))
            if step is not None:
                steps.append(step)
            if early:
                held[session_id] = early
        await self._copy.hold(held)
        conflicts = {}
        for step, written in zip(steps, await self._copy.write(steps), strict=True):
            assert step.after.session is not None
            session_id = step.after.session.session_id
            if written:
                self._known[session_id] = step.after
                self._known.move_to_end(session_id)
            else:
                del self._known[session_id]
                conflicts[session_id] = taken[session_id]
        while len(self._known) > _KEPT_SESSIONS:
            self._known.popitem(last=False)
        return conflicts

    def _events(self, session_id: str, values: Iterable[bytes]) -> Iterator[Event]:
        """One at a time: an event that is folded right after it was decoded is in the CPU's cache."""
        for value in values:
            if is_sealed(value):
                self.erased += 1
                continue
            try:
                event = decode_reply(value)
            except NewerSchema as error:
                raise OpsError(str(error)) from error
            except ValidationError as error:
                self.unreadable += 1
                log.error("reply_unreadable", session_id=session_id, error=str(error))
                continue
            if event.session_id == session_id:
                yield event, value
            else:
                self.unreadable += 1
                log.error("reply_unreadable", session_id=session_id, error=f"it is of session {event.session_id}")

    async def forget(self, ended: Callable[[SessionData], bool]) -> None:
        """Sessions of which `ended` is true are forgotten."""
        async with aclosing(self._copy.pages()) as pages:
            async for page in pages:
                found = zip(page, await self._copy.read(page), strict=True)
                gone = [session_id for session_id, each in found if each.session is not None and ended(each.session)]
                await self._copy.forget(gone)
                for session_id in gone:
                    self._known.pop(session_id, None)

    async def _learn(self, session_ids: Sequence[str]) -> None:
        for session_id, folded in zip(session_ids, await self._copy.read(session_ids), strict=True):
            self._known[session_id] = folded


def unreadable_in(progress: Mapping[str, int]) -> int:
    """How many records all readers found unreadable, by a working copy's progress."""
    return sum(count for name, count in progress.items() if name.startswith(_UNREADABLE))


def erased_in(progress: Mapping[str, int]) -> int:
    """How many records all readers found erased."""
    return sum(count for name, count in progress.items() if name.startswith(_ERASED))


def position_of(partition: int) -> str:
    """How a working copy's progress names the next offset of a reply partition."""
    return f"offset:{partition}"
