"""What became of dead letters, decided from what the topics hold. No I/O; `ops.letter_evidence` reads the topics.

| evidence | says |
|---|---|
| a later dead letter with the header `dlq.redriven` that names this one | it was sent back, and failed again |
| a reply event with its inbound id that is no failure | it was answered, by a redrive or because it was sent again |
| an inbound record with the header `dlq.redriven` that names it | it was sent back |
| none of these | it waits |
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson

from ops.dead_letters import CLOCK_SLACK, DeadLetter, Place, redriven_from
from schemas.headers import Headers
from schemas.identity import derived_inbound_id
from schemas.publishing import Position
from schemas.sealed import is_sealed

EVIDENCE_SLACK = timedelta(hours=1)
"""Evidence is looked for from so long before a letter on: the clocks of those that write may differ."""

_EPOCH = datetime.fromtimestamp(0, UTC)


class State(StrEnum):
    """What became of a dead letter."""

    WAITING = "waiting"
    REDRIVEN = "redriven"
    """Sent back, and not answered yet."""
    ANSWERED = "answered"
    FAILED_AGAIN = "failed again"
    """Sent back, and in the dead letter topic once more, as a newer letter."""
    NO_VALUE = "no value"
    """The dead letter topic did not take its value: only its source has that."""
    ERASED = "erased"
    """Its session was deleted, and nothing of it can be read."""
    UNKNOWN = "unknown"
    """The reply topic no longer holds what would tell."""


@dataclass(frozen=True, slots=True)
class Fate:
    """A letter's state; `newer` is the place of the letter that it failed again as."""

    state: State
    newer: Place | None = None

    def __str__(self) -> str:
        return self.state if self.newer is None else f"{self.state}: {self.newer}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is kept of a letter whose fate is asked for; nothing of its content."""

    place: Place
    failed_at: datetime
    session_id: str | None
    inbound_id: str
    known: State | None
    """Its state where the letter itself tells."""


def asked_of(letter: DeadLetter) -> Asked:
    """`letter` with its value as it can be read now."""
    known = None
    if letter.lost_value is not None:
        known = State.NO_VALUE
    elif is_sealed(letter.value):
        known = State.ERASED
    inbound_id = inbound_id_of(letter.value, letter.origin)
    return Asked(letter.place, letter.failed_at, letter.session_id, inbound_id, known)


def inbound_id_of(value: bytes | None, origin: Position) -> str:
    """The id under which a record is answered: the one that it brings, else the one of where it stood."""
    try:
        body: Any = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        body = None
    told = body.get("id") if isinstance(body, dict) else None
    return told if isinstance(told, str) else derived_inbound_id(origin.topic, origin.partition, origin.offset)


class Successors:
    """Which letter failed again as which, from all letters of the topic that were read."""

    def __init__(self) -> None:
        self._newer: dict[Place, tuple[datetime, Place]] = {}

    def add(self, letter: DeadLetter) -> None:
        older = letter.redrive_of
        if older is not None and (older not in self._newer or self._newer[older] < (letter.failed_at, letter.place)):
            self._newer[older] = letter.failed_at, letter.place

    def of(self, asked: Asked) -> Place | None:
        """The letter that this one failed again as, the newest if there are several."""
        failed_at, place = self._newer.get(asked.place, (_EPOCH, asked.place))
        # One from before this letter names another, which stood there before the topic was created again.
        return place if place != asked.place and failed_at >= asked.failed_at - EVIDENCE_SLACK else None


class Fates:
    """Takes the evidence for the letters that are asked for; its size depends on their number only."""

    def __init__(self, asked: Iterable[Asked], successors: Successors) -> None:
        self._asked = {each.place: each for each in asked}
        self._successors = successors
        self._by_id: dict[tuple[str, str], list[Place]] = defaultdict(list)
        for each in self._open():
            if each.session_id is not None:
                self._by_id[each.session_id, each.inbound_id].append(each.place)
        self._sessions = frozenset(session_id.encode() for session_id, _ in self._by_id)
        self._redriven: set[Place] = set()
        self._answered: set[Place] = set()
        self._unreadable: dict[str, datetime] = {}
        self._replies_since: datetime | None = None

    def _open(self) -> list[Asked]:
        """Those of which the dead letter topic does not tell all."""
        return [each for each in self._asked.values() if each.known is None and not self._successors.of(each)]

    @property
    def since(self) -> datetime | None:
        """Evidence is as new as this, or newer; None: none is needed."""
        oldest = min((each.failed_at for each in self._open()), default=None)
        return None if oldest is None else oldest - EVIDENCE_SLACK

    @property
    def sessions(self) -> Collection[bytes]:
        """The keys of the reply records that may say something."""
        return self._sessions

    def replies_reach_back_to(self, when: datetime | None) -> None:
        """The reply topic lacks events before `when`; None: it lacks nothing."""
        self._replies_since = when

    def inbound(self, headers: Headers, timestamp_ms: int) -> None:
        """A record of a topic that workers read."""
        redriven = redriven_from(headers)
        asked = self._asked.get(redriven) if redriven is not None else None
        if asked is not None and _time(timestamp_ms) >= asked.failed_at - EVIDENCE_SLACK:
            self._redriven.add(asked.place)

    def reply(self, session_id: str, value: bytes | None, timestamp_ms: int) -> None:
        """A record of the reply topic, opened where it can be."""
        if is_sealed(value):
            self._unreadable[session_id] = max(_time(timestamp_ms), self._unreadable.get(session_id, _EPOCH))
            return
        try:
            event: Any = orjson.loads(value or b"")
        except orjson.JSONDecodeError:
            return
        if not isinstance(event, dict) or (event.get("type") == "turn.failed" and event.get("redrivable", True)):
            return
        self._answered.update(self._by_id.get((session_id, str(event.get("inbound_id"))), ()))

    def of(self, place: Place) -> Fate:
        """What became of a letter that was asked for."""
        asked = self._asked[place]
        if newer := self._successors.of(asked):
            return Fate(State.FAILED_AGAIN, newer)
        if asked.known is not None:
            return Fate(asked.known)
        if place in self._answered:
            return Fate(State.ANSWERED)
        if place in self._redriven:
            return Fate(State.REDRIVEN)
        gone = self._replies_since is not None and asked.failed_at < self._replies_since
        sealed_at = self._unreadable.get(asked.session_id or "")
        if gone or (sealed_at is not None and sealed_at >= asked.failed_at - CLOCK_SLACK):
            return Fate(State.UNKNOWN)
        return Fate(State.WAITING)


def reaches_back_to(
    begins: Collection[int], retention_ms: int | None, oldest: Collection[datetime], now: datetime
) -> datetime | None:
    """From when on a topic is complete; None: it has lost nothing.

    `begins` are the partitions' first offsets, `retention_ms` what Kafka deletes by (None: not by time alone, or not
    told), `oldest` the times of the first records that partitions still have.
    """
    if not any(begins):
        return None
    if retention_ms is not None and retention_ms >= 0:
        return now - timedelta(milliseconds=retention_ms)
    return max(oldest, default=now)


def _time(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
