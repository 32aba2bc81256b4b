"""The invariants L, D, O, U, R and C, read off records and sessions. No I/O, no clock.

| | found as |
|---|---|
| L | an inbound record without a turn and without a dead letter, which nobody will take any more |
| D | an inbound id with two turns, or one turn published with two contents |
| O | two events in one place of a session, a place left out, or turns against the order of their inbound records |
| U | a session that differs from the serial fold of its events |
| R | a session, or its newest events, that the reply topic would not bring back byte for byte |
| C | a committed offset beyond a record that is not finished |
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Literal, NamedTuple

import orjson
from pydantic import ValidationError

from ops.dead_letters import DeadLetter
from schemas.errors import InvalidRecord, NewerSchema
from schemas.fold import evolve, source_key
from schemas.identity import derived_inbound_id
from schemas.inbound import Cancel, Feedback, decode_inbound
from schemas.incarnation import parse_incarnation
from schemas.publishing import Position
from schemas.replies import ReplyEvent, SessionDeleted, TurnFailed, decode_reply
from schemas.sealed import is_sealed
from schemas.session import SessionData
from workers.records import KafkaRecord, Partition

Invariant = Literal["L", "D", "O", "U", "R", "C"]
INVARIANTS: tuple[Invariant, ...] = ("L", "D", "O", "U", "R", "C")
FIRST = 20
"""How many breaches of one invariant are kept; more are only counted."""

Inbound = tuple[str, str]
"""A session and an inbound id in it."""


class Place(NamedTuple):
    """An event's place in its session."""

    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Breach:
    """One invariant, broken once."""

    invariant: Invariant
    what: str
    session_id: str | None = None
    inbound_id: str | None = None
    record: str | None = None
    """`topic:partition:offset` of the inbound record."""


@dataclass(slots=True)
class Findings:
    """What was checked, and what came out."""

    records: Counter[str] = field(default_factory=Counter)
    """How many were read, by kind."""
    breaches: dict[Invariant, list[Breach]] = field(default_factory=lambda: {name: [] for name in INVARIANTS})
    """The first ones of each."""
    counts: Counter[Invariant] = field(default_factory=Counter)
    not_checked: Counter[str] = field(default_factory=Counter)
    """How many sessions could not be judged, by why."""

    @property
    def ok(self) -> bool:
        return not self.counts.total()

    def add(self, breach: Breach) -> None:
        self.counts[breach.invariant] += 1
        if len(self.breaches[breach.invariant]) < FIRST:
            self.breaches[breach.invariant].append(breach)


@dataclass(slots=True)
class _Session:
    """A session on its way through the reply topic."""

    folded: SessionData | None = None
    newest: dict[int, Place] = field(default_factory=dict)
    """The newest place in each reply partition."""
    held: dict[Place, ReplyEvent] = field(default_factory=dict)
    """What can't be folded yet: it has no predecessor, or the session's events lie in several partitions."""
    is_erased: bool = False
    """Events of it were erased, up to a deletion."""
    is_newer: bool = False
    """A later version of this program wrote events of it, so it can't be folded here."""
    sources: dict[str, int] = field(default_factory=dict)
    """Per inbound partition the offset of the record that was applied last."""


class Checker:
    """Takes everything that belongs to a span of traffic, in this order: what is committed, the inbound records, then
    the replies of each partition in order, dead letters, and sessions; `finish` says what is wrong.
    """

    def __init__(self, committed: dict[Partition, int], life: Callable[[str], str] = str) -> None:
        """`committed` is what the workers' group had committed before anything else was read; `life` names a topic as
        its offsets are kept (`workers.incarnations`)."""
        self.findings = Findings()
        self._life = life
        self._committed = committed
        self._records: dict[Position, Inbound | None] = {}
        """Inbound records that need an outcome; None: the record can't be read, so only a dead letter is one."""
        self._answered: dict[Inbound, Place] = {}
        self._failed: dict[Inbound, Position] = {}
        """Turns that failed and wait in the dead letter topic, with the record that did."""
        self._letters: set[Position] = set()
        self._events: dict[tuple[str, Place], tuple[str, bytes]] = {}
        """Id and digest of every event."""
        self._sessions: dict[str, _Session] = defaultdict(_Session)
        self._cut_off: set[int] = set()

    def inbound(self, record: KafkaRecord) -> None:
        self.findings.records["inbound"] += 1
        if is_sealed(record.value):
            self.findings.records["erased"] += 1
            return
        position = Position(record.topic, record.partition, record.offset)
        try:
            life = self._life(record.topic)
            event = decode_inbound(record.value, record.key, life, record.partition, record.offset)
        except InvalidRecord:
            self._records[position] = None
            return
        if isinstance(event, (Cancel, Feedback)):
            # A cancel is no turn, and feedback on what nobody said is ignored.
            self.findings.records["no_outcome_needed"] += 1
            return
        self._records[position] = (event.session_id, event.id)

    def sessions_of_inbound(self) -> set[str]:
        """The sessions that the inbound records named."""
        return {inbound[0] for inbound in self._records.values() if inbound is not None}

    def replies_begin(self, partition: int, offset: int) -> None:
        """Where the reply topic begins; above 0, earlier events are gone and sessions that began there can't be
        judged."""
        if offset > 0:
            self._cut_off.add(partition)

    def reply(self, record: KafkaRecord) -> None:
        self.findings.records["replies"] += 1
        value = record.value or b""
        if is_sealed(value):
            self.findings.records["erased"] += 1
            self._sessions[(record.key or b"").decode(errors="replace")].is_erased = True
            return
        try:
            event = decode_reply(value)
        except NewerSchema:
            self._newer(record, value)
            return
        except ValidationError as error:
            self._breach("R", f"{_of(record)} is no reply event: {error.errors()[0]['msg']}", None, None)
            return
        place, digest = Place(event.epoch, event.seq), sha256(value).digest()
        known = self._events.get((event.session_id, place))
        if known is not None:
            self._compare(known, event, digest)
            return
        self._events[event.session_id, place] = (event.id, digest)
        session = self._sessions[event.session_id]
        if place < session.newest.get(record.partition, place):
            before = session.newest[record.partition]
            self._about(event, "O", f"seq {event.seq} stands behind seq {before.seq} in the reply topic")
        self._note_outcome(event, place)
        split = session.newest.keys() - {record.partition}
        session.newest[record.partition] = max(place, session.newest.get(record.partition, place))
        session.held[place] = event
        if not split:
            self._fold(session)

    def dead_letter(self, letter: DeadLetter) -> None:
        self._letters.add(letter.origin)

    def sessions(self) -> Iterator[str]:
        """The sessions that the reply topic has, each to be handed to `stored`."""
        for session_id, session in self._sessions.items():
            if session.is_newer:
                self.findings.not_checked["was written by a newer version"] += 1
                continue
            if session.held:
                self._fold(session)
            if session.held or session.folded is None:
                self._judge_rest(session_id, session)
                continue
            yield session_id

    def folded(self, session_id: str) -> SessionData:
        """What the reply topic makes of one of `sessions`, with what was read of it since."""
        session = self._sessions[session_id]
        self._fold(session)
        assert session.folded is not None, "a session of `sessions`"
        return session.folded

    def stored(self, session_id: str, live: SessionData | None, events: Sequence[bytes], *, expired: bool) -> None:
        """Compares a session with the store's. `expired`: by its time to live the store may have dropped it."""
        folded = self.folded(session_id)
        self.findings.records["sessions"] += 1
        if live is None:
            if not expired:
                self._breach("U", f"the store has no such session; it ended at seq {folded.seq}", session_id, None)
            return
        if live != folded:
            self._breach("U", f"live and fold differ: {_difference(live, folded)}", session_id, live.request_id)
        if live.to_json() != folded.to_json():
            self._breach("R", f"the topics bring back another state: {_difference(live, folded)}", session_id, None)
        for value in events:
            event = decode_reply(value)
            if Place(event.epoch, event.seq) > Place(live.epoch, live.seq):
                continue  # it came after the session was read
            known = self._events.get((session_id, Place(event.epoch, event.seq)))
            if known is None:
                self._about(event, "R", f"seq {event.seq} is in the store and not in the reply topic")
            elif known[1] != sha256(value).digest():
                self._about(event, "R", f"seq {event.seq} has other bytes in the store than in the reply topic")

    def finish(self, *, complete: bool) -> Findings:
        """`complete`: nothing is under way any more, so what has no outcome is lost."""
        unfinished: dict[Partition, Position] = {}
        for position, inbound in self._records.items():
            if self._has_outcome(position, inbound):
                continue
            partition = Partition(position.topic, position.partition)
            if position.offset < unfinished.get(partition, position).offset or partition not in unfinished:
                unfinished[partition] = position
            if complete or position.offset < self._committed.get(partition, 0):
                self._lost(position, inbound)
            else:
                self.findings.records["open"] += 1
        for partition, position in unfinished.items():
            if position.offset < self._committed.get(partition, 0):
                what = f"{self._committed[partition]} is committed, and the record at {position.offset} is not finished"
                self._breach("C", what, *(self._records[position] or (None, None)), record=_of(position))
        self._count_outcomes()
        return self.findings

    def _count_outcomes(self) -> None:
        named = [inbound for inbound in self._records.values() if inbound is not None]
        self.findings.records["duplicates"] = len(named) - len(set(named))
        self.findings.records["answered"] = len(set(named) & self._answered.keys())
        self.findings.records["dead_letters"] = len(self._records.keys() & self._letters)

    def _has_outcome(self, position: Position, inbound: Inbound | None) -> bool:
        if position in self._letters:
            return True
        if inbound is None:
            return False
        if inbound in self._answered or self._is_erased(inbound[0]):
            return True
        # A failed turn says that there is a dead letter; a duplicate of the record shares its fate.
        return inbound in self._failed and self._failed[inbound] in self._letters

    def _is_erased(self, session_id: str) -> bool:
        return session_id in self._sessions and self._sessions[session_id].is_erased

    def _lost(self, position: Position, inbound: Inbound | None) -> None:
        session_id, inbound_id = inbound or (None, derived_inbound_id(*_parts(position)))
        what = "its turn failed, and it is not in the dead letter topic" if inbound in self._failed else "no outcome"
        self._breach("L", what, session_id, inbound_id, record=_of(position))

    def _newer(self, record: KafkaRecord, value: bytes) -> None:
        """An event that this version can't read. What it answers, it can tell: fields keep their names."""
        fields_of_event = orjson.loads(value)
        session_id, inbound_id = fields_of_event.get("session_id"), fields_of_event.get("inbound_id")
        self._sessions[str(session_id)].is_newer = True
        if isinstance(session_id, str) and isinstance(inbound_id, str):
            self._answered.setdefault((session_id, inbound_id), Place(0, record.offset))

    def _compare(self, known: tuple[str, bytes], event: ReplyEvent, digest: bytes) -> None:
        if known[0] != event.id:
            self._about(event, "O", f"two events have seq {event.seq}: {known[0]} and {event.id}")
        elif known[1] != digest:
            self._about(event, "D", f"seq {event.seq} was published with different contents")
        else:
            self.findings.records["published_again"] += 1

    def _note_outcome(self, event: ReplyEvent, place: Place) -> None:
        inbound = (event.session_id, event.inbound_id)
        if isinstance(event, TurnFailed) and event.redrivable:
            if (source := event.source) is not None:
                topic, _ = parse_incarnation(source.topic)
                self._failed[inbound] = Position(topic, source.partition, source.offset)
            return
        before = self._answered.setdefault(inbound, place)
        if before != place:
            self._about(event, "D", f"answered twice, at seq {before.seq} and at seq {place.seq}")

    def _fold(self, session: _Session) -> None:
        while (event := self._next(session)) is not None:
            before = session.folded
            del session.held[Place(event.epoch, event.seq)]
            session.folded = evolve(before, event)
            if event.source is None:
                continue
            partition = source_key(event.source)
            if event.source.offset <= session.sources.get(partition, -1):
                earlier = session.sources[partition]
                self._about(event, "O", f"record {partition}:{event.source.offset} was applied after {earlier}")
            session.sources[partition] = max(event.source.offset, session.sources.get(partition, -1))

    @staticmethod
    def _next(session: _Session) -> ReplyEvent | None:
        """The held event that follows what is folded, an epoch to its end before the next."""
        folded = session.folded
        if folded is not None and (event := session.held.get(Place(folded.epoch, folded.seq + 1))) is not None:
            return event
        begins = [place for place in session.held if place.seq == 1 and (folded is None or place.epoch > folded.epoch)]
        if session.is_erased:
            # What was before a deletion can't be read any more; the tombstone follows from it alone.
            begins += [place for place, event in session.held.items() if _leaves_tombstone(event)]
        return session.held[min(begins)] if begins else None

    def _judge_rest(self, session_id: str, session: _Session) -> None:
        """A session with events that follow nothing, or without any that can be read."""
        if session.is_erased:
            self.findings.not_checked["was erased"] += 1
            return
        if self._cut_off.intersection(session.newest):
            self.findings.not_checked["began before the reply topic does"] += 1
            return
        first = session.held[min(session.held)]
        folded = session.folded
        last = f"seq {folded.seq}" if folded is not None and folded.epoch == first.epoch else "nothing"
        self._about(first, "O", f"seq {first.seq} follows {last} in the reply topic")

    def _about(self, event: ReplyEvent, invariant: Invariant, what: str) -> None:
        source = event.source
        record = f"{source_key(source)}:{source.offset}" if source is not None else None
        self._breach(invariant, what, event.session_id, event.inbound_id, record=record)

    def _breach(
        self,
        invariant: Invariant,
        what: str,
        session_id: str | None,
        inbound_id: str | None,
        *,
        record: str | None = None,
    ) -> None:
        self.findings.add(Breach(invariant, what, session_id, inbound_id, record))


def _difference(live: SessionData, folded: SessionData) -> str:
    names = [each.name for each in fields(SessionData) if getattr(live, each.name) != getattr(folded, each.name)]
    return ", ".join(f"{name} {getattr(live, name)!r} and {getattr(folded, name)!r}" for name in names[:3])


def _of(record: KafkaRecord | Position) -> str:
    return f"{record.topic}:{record.partition}:{record.offset}"


def _parts(position: Position) -> tuple[str, int, int]:
    return position.topic, position.partition, position.offset


def _leaves_tombstone(event: ReplyEvent) -> bool:
    return isinstance(event, SessionDeleted) and event.applied is not None
