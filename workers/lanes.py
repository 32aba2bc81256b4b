"""Lanes: one queue per session; serial inside, parallel to every other. No I/O, no clock.

The scheduler decides what may run; a shell (`workers.dispatch`) runs it.
"""

from collections import deque
from collections.abc import Container, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.frozen import frozen

P = TypeVar("P", bound=Hashable)
T = TypeVar("T")


@frozen(eq=False)
class Work(Generic[P, T]):
    """One record in its session's lane. `generation` tells apart two assignments of the same partition."""

    lane: str
    partition: P
    generation: int
    item: T


@dataclass(slots=True)
class _Lane(Generic[P, T]):
    waiting: deque[Work[P, T]] = field(default_factory=deque)
    running: Work[P, T] | None = None


class Lanes(Generic[P, T]):
    """Key-ordered concurrency: at most `concurrency` lanes run at once, and of each lane only its head. A head that
    waits for a server that is away can be parked: it goes on waiting, and its place is another's meanwhile.

    A lane belongs to a session, not to a partition: work of one session that arrives over two partitions, or over two
    assignments of the same partition, still never overlaps in this process (invariant O). Ready lanes take turns, so
    a busy session holds back only itself (invariant P).
    """

    def __init__(self, *, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._concurrency = concurrency
        self._lanes: dict[str, _Lane[P, T]] = {}
        self._ready: deque[str] = deque()
        self._running: set[Work[P, T]] = set()
        """Lane heads that hold a place; at most `concurrency`."""
        self._parked: set[Work[P, T]] = set()
        """Lane heads that run without a place: they wait for something outside."""
        self._returning: deque[Work[P, T]] = deque()
        """Parked heads that want a place again, longest first."""

    def offer(self, work: Work[P, T]) -> None:
        """Appends to the work's lane."""
        lane = self._lanes.get(work.lane)
        if lane is None:
            lane = self._lanes[work.lane] = _Lane()
        lane.waiting.append(work)
        if lane.running is None and len(lane.waiting) == 1:
            self._ready.append(work.lane)

    def take(self) -> Work[P, T] | None:
        """The next work that may run now, which then holds a place until `finish` or `park`; None when there is none.
        It may be parked work that `wants_place`."""
        if len(self._running) >= self._concurrency:
            return None
        while self._returning:
            work = self._returning.popleft()
            if work in self._parked:
                self._parked.remove(work)
                self._running.add(work)
                return work
        if not self._ready:
            return None
        lane = self._lanes[self._ready.popleft()]
        lane.running = lane.waiting.popleft()
        self._running.add(lane.running)
        return lane.running

    def finish(self, work: Work[P, T]) -> None:
        """Ends running work, however it went; its lane's next head becomes ready."""
        lane = self._lanes[work.lane]
        if lane.running is not work:
            raise ValueError(f"lane {work.lane}: finished work that was not running")
        lane.running = None
        self._running.discard(work)
        self._parked.discard(work)
        if lane.waiting:
            self._ready.append(work.lane)
        else:
            del self._lanes[work.lane]

    def finish_and_go_on(self, work: Work[P, T]) -> Work[P, T] | None:
        """As `finish`. Where no other lane waits for the place, the lane's next head takes it at once, and is
        returned."""
        lane = self._lanes[work.lane]
        others = self._ready or self._returning or work in self._parked
        if others or not lane.waiting or lane.running is not work:
            self.finish(work)
            return None
        self._running.remove(work)
        lane.running = lane.waiting.popleft()
        self._running.add(lane.running)
        return lane.running

    def park(self, work: Work[P, T]) -> None:
        """Running work gives its place to others while it waits. Its lane stays busy."""
        if work in self._running:
            self._running.remove(work)
            self._parked.add(work)

    def wants_place(self, work: Work[P, T]) -> None:
        """Parked work is to be handed out by `take` once more, before any that has not begun."""
        if work in self._parked:
            self._returning.append(work)

    def needs_no_place(self, work: Work[P, T]) -> None:
        """Ends `wants_place`: the work ends without a place."""
        if work in self._returning:
            self._returning.remove(work)

    def is_parked(self, work: Work[P, T]) -> bool:
        """Whether the work runs without a place."""
        return work in self._parked

    def revoke(self, partition: P) -> list[Work[P, T]]:
        """Drops and returns what waits of `partition`; it will be redelivered to its next owner. What runs goes
        on."""
        dropped: list[Work[P, T]] = []
        for key in [key for key, lane in self._lanes.items() if any(w.partition == partition for w in lane.waiting)]:
            lane = self._lanes[key]
            dropped += [work for work in lane.waiting if work.partition == partition]
            lane.waiting = deque(work for work in lane.waiting if work.partition != partition)
            if not lane.waiting and lane.running is None:
                del self._lanes[key]
                self._ready.remove(key)
        return dropped

    def holds(self, partitions: Container[P]) -> bool:
        """Whether anything of these partitions waits or runs."""
        return any(work.partition in partitions for work in self._running | self._parked) or any(
            work.partition in partitions for lane in self._lanes.values() for work in lane.waiting
        )

    def running(self, partition: P | None = None) -> set[Work[P, T]]:
        """What runs now, of one partition or of all."""
        begun = self._running | self._parked
        return {work for work in begun if partition is None or work.partition == partition}

    @property
    def holding_places(self) -> frozenset[Work[P, T]]:
        """What runs and is not parked."""
        return frozenset(self._running)

    @property
    def waiting(self) -> int:
        """How many works wait, over all lanes."""
        return sum(len(lane.waiting) for lane in self._lanes.values())
