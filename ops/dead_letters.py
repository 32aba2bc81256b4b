"""Dead letters as a person looks at them: what one says, and which are meant."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import orjson

from schemas.headers import Headers, header
from schemas.identity import is_session_id
from schemas.publishing import Position
from schemas.sealed import is_sealed, parse_sealed
from workers.records import KafkaRecord

REDRIVEN = "dlq.redriven"
"""The header of a redriven record: the place of its dead letter."""
CLOCK_SLACK = timedelta(minutes=1)
"""A record's own time and the time in its header are of two clocks."""
_NAMES = ("dlq.reason", "dlq.error", "dlq.attempts", "dlq.topic", "dlq.partition", "dlq.offset", "dlq.failed_at")


_OF_LOST_VALUES = ("dlq.size", "dlq.digest", "dlq.first_bytes", "dlq.last_offset")
"""Written in place of a value that the dead letter topic does not take."""


class NotADeadLetter(ValueError):
    """A record in the dead letter topic that no worker wrote."""


class Place(NamedTuple):
    """Where a dead letter stands in the dead letter topic; written `PARTITION:OFFSET`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        partition, _, offset = text.partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            raise ValueError(f"{text!r} is not PARTITION:OFFSET")
        return cls(int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class LostValue:
    """What is left of a value that the dead letter topic did not take."""

    size: int
    """In bytes."""
    digest: str
    first_bytes: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not become a turn, as it came, and why."""

    place: Place
    reason: str
    error: str
    attempts: int
    origin: Position
    """Where the record stood when it failed."""
    failed_at: datetime
    session_id: str | None
    """None where neither key nor body names one."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    lost_value: LostValue | None = None
    """None: the letter has the value as it came."""

    @property
    def redrive_of(self) -> Place | None:
        """The place of the letter that was sent back and failed again as this one; None: it failed for the first
        time."""
        return redriven_from(self.headers)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; what is empty or None selects all."""

    reasons: frozenset[str] = frozenset()
    session_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Exclusive."""

    def takes(self, letter: DeadLetter) -> bool:
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (self.session_id is None or letter.session_id == self.session_id)
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )


def redriven_from(headers: Headers) -> Place | None:
    """The place of the letter that a record was made from; None: it is no redriven record."""
    told = header(headers, REDRIVEN)
    try:
        return None if told is None else Place.parse(told.decode())
    except ValueError:
        return None


def decode_dead_letter(record: KafkaRecord) -> DeadLetter:
    """What `workers.dead_letters` wrote. Raises NotADeadLetter."""
    found = {name: header(record.headers, name) for name in _NAMES}
    lost_value = _lost_value(record)
    try:
        told = {name: value.decode() for name, value in found.items() if value is not None}
        return DeadLetter(
            place=Place(record.partition, record.offset),
            reason=told["dlq.reason"],
            error=told["dlq.error"],
            attempts=int(told["dlq.attempts"]),
            origin=Position(told["dlq.topic"], int(told["dlq.partition"]), int(told["dlq.offset"])),
            failed_at=datetime.fromisoformat(told["dlq.failed_at"]).astimezone(UTC),
            session_id=session_of(record.key, record.value),
            key=record.key,
            value=record.value,
            headers=_as_it_came(record.headers, _NAMES if lost_value is None else (*_NAMES, *_OF_LOST_VALUES)),
            lost_value=lost_value,
        )
    except (KeyError, ValueError) as error:
        raise NotADeadLetter(f"{record.partition}:{record.offset} has no dead letter's headers: {error}") from error


def session_of(key: bytes | None, value: bytes | None) -> str | None:
    """The session that a record was for: its key's, else its body's, or the one that it was sealed for."""
    try:
        if key is None and value is not None and is_sealed(value):
            return parse_sealed(value).session_id
        session_id: object = key.decode() if key else None
        if session_id is None:
            body = orjson.loads(value or b"")
            session_id = body.get("session_id") if isinstance(body, dict) else None
    except ValueError:  # no UTF-8, no JSON
        return None
    return session_id if isinstance(session_id, str) and is_session_id(session_id) else None


def _lost_value(record: KafkaRecord) -> LostValue | None:
    """None: the letter has its value. A sender may have used the names of these headers, too; the worker's stand behind
    the reason."""
    names = [name for name, _ in reversed(record.headers)]
    told = "dlq.size" in names[: names.index("dlq.reason")] if "dlq.reason" in names else False
    size = header(record.headers, "dlq.size")
    if record.value or not told or size is None or not size.isdigit():
        return None
    digest = header(record.headers, "dlq.digest") or b""
    return LostValue(int(size), digest.decode(errors="replace"), header(record.headers, "dlq.first_bytes") or b"")


def _as_it_came(headers: Headers, added: Sequence[str]) -> list[tuple[str, bytes]]:
    """Without what the worker added: the last of each name. A sender may have used the same names before."""
    kept = list(headers)
    for name in added:
        last = max((i for i, (each, _) in enumerate(kept) if each == name), default=None)
        if last is not None:
            del kept[last]
    return kept
