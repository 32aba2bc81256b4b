"""Where a session's events are published while partitions are added. No I/O, no clock.

More partitions give many sessions another home. Were their events simply sent there, the new home's worker could
overtake what still waits in the old one. So a session moves when everything that this process published for it at its
old home is answered; until then it goes on there, where workers answer it under the session lock.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.frozen import frozen
from schemas.partition import home_partition


@frozen()
class Choice:
    """Where an event goes."""

    session_id: str
    partition: int
    generation: int
    """Grows with every move."""
    at_old_home: bool
    """Whether the session has another home by now and has not moved yet."""


@dataclass(slots=True)
class _Move:
    """From one partition count to the next."""

    old_count: int
    before: int
    """Events under way that were chosen a place before the move began."""
    barrier: dict[int, int] = field(default_factory=dict)
    """Per old partition the log's end once those had arrived; empty until then."""
    under_way: Counter[str] = field(default_factory=Counter)
    """Per session, events on their way to its old home."""
    last: dict[str, int] = field(default_factory=dict)
    """Per session, the newest offset at its old home since the move began."""
    done_below: dict[int, int] = field(default_factory=dict)
    """Per old partition, how far workers are."""


class Homes:
    """Partitions of the inbound topic, by session."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._generation = 0
        self._under_way = 0
        self._move: _Move | None = None

    def choose(self, session_id: str) -> Choice:
        """The partition for the session's next event; to be given back by `published` or `failed`."""
        self._under_way += 1
        partition = home_partition(session_id, self.count)
        move = self._move
        if move is None:
            return Choice(session_id, partition, self._generation, False)
        old = home_partition(session_id, move.old_count)
        if old == partition or _is_done(move, session_id, old):
            return Choice(session_id, partition, self._generation, False)
        move.under_way[session_id] += 1
        return Choice(session_id, old, self._generation, True)

    def published(self, choice: Choice, offset: int) -> None:
        """Kafka has the event."""
        self._arrived(choice)
        if choice.at_old_home and self._move is not None:
            last = self._move.last
            last[choice.session_id] = max(offset, last.get(choice.session_id, -1))

    def failed(self, choice: Choice) -> None:
        """Kafka did not take the event, or nobody knows; whoever sends it again gets another choice."""
        self._arrived(choice)

    def grow(self, count: int) -> None:
        """The topic has `count` partitions now, more than before. Only when `settled`."""
        if self._move is not None or count <= self.count:
            raise ValueError("one move after the other, and only to more partitions")
        self._move = _Move(self.count, before=self._under_way)
        self._generation += 1
        self._under_way = 0
        self.count = count

    @property
    def settled(self) -> bool:
        """Whether every session is at its home."""
        return self._move is None

    @property
    def needs_barrier(self) -> int | None:
        """The old number of partitions, when it is time to look where their logs end; None: it is not."""
        move = self._move
        return move.old_count if move is not None and not move.barrier and move.before == 0 else None

    def barrier(self, ends: Mapping[int, int]) -> None:
        """Where the logs of the old partitions end."""
        if self._move is not None:
            self._move.barrier = dict(ends)

    def waits_for_answer(self, session_id: str) -> bool:
        """Whether an answer to this session may let it move."""
        return self._move is not None and session_id in self._move.last

    def answered(self, session_id: str, partition: int, offset: int) -> None:
        """A worker answered the record there, and with it, as a lane is serial, all of the session's before."""
        move = self._move
        if move is None or partition != home_partition(session_id, move.old_count):
            return
        if move.last.get(session_id, offset + 1) <= offset:
            del move.last[session_id]

    def progressed(self, done_below: Mapping[int, int]) -> None:
        """How far workers are in the old partitions. Ends the move when nobody waits any more."""
        move = self._move
        if move is None or not move.barrier:
            return
        move.done_below.update(done_below)
        move.last = {
            session_id: offset
            for session_id, offset in move.last.items()
            if move.done_below.get(home_partition(session_id, move.old_count), 0) <= offset
        }
        passed = all(move.done_below.get(number, 0) >= end for number, end in move.barrier.items())
        if passed and not move.last and not +move.under_way:
            self._move = None

    def _arrived(self, choice: Choice) -> None:
        move = self._move
        if choice.generation == self._generation:
            self._under_way -= 1
        elif move is not None:
            move.before -= 1
        if choice.at_old_home and move is not None:
            move.under_way[choice.session_id] -= 1


def _is_done(move: _Move, session_id: str, old: int) -> bool:
    """Whether nothing of the session waits at its old home."""
    if not move.barrier or move.under_way[session_id]:
        return False
    return move.done_below.get(old, 0) >= move.barrier.get(old, 0) and session_id not in move.last
