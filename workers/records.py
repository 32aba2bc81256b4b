"""A record on its way through the worker."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple, Protocol

from schemas.errors import InvalidReason, InvalidRecord
from schemas.frozen import frozen
from schemas.identity import is_session_id
from schemas.inbound import InboundEvent, decode_inbound
from schemas.replies import Source
from schemas.sealed import is_sealed, parse_sealed
from schemas.topics import MAX_EVENT_BYTES
from store.protocol import Fence

MAX_VALUE_BYTES = MAX_EVENT_BYTES + 64 * 1024
"""Of an inbound record: an event and what sealing adds."""
FIRST_BYTES = 64
"""Of a value that is left out, for a person to recognise it by."""


class KafkaRecord(Protocol):
    """What the worker reads of a consumer record; aiokafka's has these attributes."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Partition(NamedTuple):
    """A partition of a topic; equal to aiokafka's TopicPartition of the same place."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"


@frozen(kw_only=True)
class UnreadableRecord:
    """Stands for a batch of records whose content is not handed out, or for one record whose value is not kept, and
    takes their place in the partition."""

    topic: str
    partition: int
    offset: int
    """Of the batch's first record."""
    last_offset: int
    reason: InvalidReason
    error: str
    size: int
    """Of the batch as it was fetched, in bytes."""
    digest: str
    """SHA-256 of those bytes, in hexadecimal."""
    first_bytes: bytes
    timestamp: int = 0
    """The newest of the batch's records, in ms since 1970."""
    key: bytes | None = None
    value: None = None
    headers: Sequence[tuple[str, bytes]] = ()


def offset_after(record: KafkaRecord) -> int:
    """The offset that follows `record` in its partition."""
    return (record.last_offset if isinstance(record, UnreadableRecord) else record.offset) + 1


@frozen()
class Assignment:
    """This process's ownership of a partition from one rebalance to the next."""

    partition: Partition
    generation: int
    """Grows with every assignment in this process."""
    fence: Fence
    done_below: int
    """All records below this offset were done before, as the store says."""
    log: str
    """The life of the topic that its offsets belong to (`workers.incarnations`)."""

    @property
    def progress_key(self) -> str:
        """What the store keeps the partition's progress under."""
        return f"{self.log}:{self.partition.partition}"


@frozen()
class Taken:
    """A record that this worker took, decoded: `event`, or why it is `invalid`; neither while it is sealed, or when it
    was erased."""

    record: KafkaRecord
    assignment: Assignment
    taken_at: float
    """By a monotonic clock, in seconds."""
    session_id: str | None
    """None when the record names no session."""
    event: InboundEvent | None
    invalid: InvalidRecord | None
    source: Source
    """Where the record stands."""
    is_sealed: bool = False
    """Opened, and decoded, only when it is its turn: the key may have to be asked for."""
    is_erased: bool = False
    """Nobody can open it any more; the session was deleted while it was on its way."""

    @property
    def was_sealed(self) -> bool:
        """It was, and could be opened."""
        return self.event is not None and is_sealed(self.record.value)

    @property
    def lane(self) -> str:
        """Its session, or a lane of its own where there is none."""
        return self.session_id or f"{self.record.topic}:{self.record.partition}:{self.record.offset}"


def take(record: KafkaRecord, assignment: Assignment, now: float) -> Taken:
    """Decodes `record`; never raises for what is in it."""
    source = Source(topic=assignment.log, partition=record.partition, offset=record.offset)
    if record.value is not None and len(record.value) > MAX_VALUE_BYTES:
        record = _without_value(record, record.value)
    if isinstance(record, UnreadableRecord):
        unreadable = InvalidRecord(record.reason, f"The record can't be read: {record.error}.")
        return Taken(record, assignment, now, _session_of_key(record.key), None, unreadable, source)
    if is_sealed(record.value):
        return _take_sealed(record, record.value or b"", assignment, now, source)
    return _decoded(record, record.value, assignment, now, source)


def _without_value(record: KafkaRecord, value: bytes) -> UnreadableRecord:
    """Nothing that waits in a lane may be large: a megabyte is the most that an event has."""
    return UnreadableRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        last_offset=record.offset,
        reason="too_large",
        error=f"its value has {len(value)} bytes; {MAX_VALUE_BYTES} fit",
        size=len(value),
        digest=sha256(value).hexdigest(),
        first_bytes=value[:FIRST_BYTES],
        key=record.key,
        headers=record.headers,
    )


def opened(taken: Taken, value: bytes) -> Taken:
    """A sealed record, with what was in it."""
    return _decoded(taken.record, value, taken.assignment, taken.taken_at, taken.source)


def erased(taken: Taken) -> Taken:
    """A sealed record that nobody can open any more."""
    return replace(taken, is_sealed=False, is_erased=True)


def changed(taken: Taken) -> Taken:
    """A sealed record that is not as it was sealed."""
    invalid = InvalidRecord("unreadable", "The record was changed after it was sealed.")
    return replace(taken, is_sealed=False, invalid=invalid)


def _decoded(record: KafkaRecord, value: bytes | None, assignment: Assignment, now: float, source: Source) -> Taken:
    try:
        event = decode_inbound(value, record.key, assignment.log, record.partition, record.offset)
    except InvalidRecord as error:
        return Taken(record, assignment, now, error.session_id or _session_of_key(record.key), None, error, source)
    return Taken(record, assignment, now, event.session_id, event, None, source)


def _take_sealed(record: KafkaRecord, value: bytes, assignment: Assignment, now: float, source: Source) -> Taken:
    try:
        session_id = parse_sealed(value).session_id
    except ValueError as error:
        invalid = InvalidRecord("unreadable", f"The record can't be read: {error}.")
        return Taken(record, assignment, now, _session_of_key(record.key), None, invalid, source)
    if not is_session_id(session_id) or (record.key is not None and record.key != session_id.encode()):
        invalid = InvalidRecord("key_mismatch", "The record's key is not the session that it was sealed for.")
        return Taken(record, assignment, now, _session_of_key(record.key), None, invalid, source)
    return Taken(record, assignment, now, session_id, None, None, source, is_sealed=True)


def _session_of_key(key: bytes | None) -> str | None:
    try:
        session_id = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return session_id if is_session_id(session_id) else None
