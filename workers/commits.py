"""Which offsets may be committed: only the contiguous prefix of done ones (invariant C). No I/O, no clock."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)


@dataclass(slots=True)
class _Partition:
    open: deque[int] = field(default_factory=deque)
    """Offsets taken and not yet below the prefix, ascending."""
    done: set[int] = field(default_factory=set)
    """Those of `open` that are finished."""
    position: int | None = None
    """The offset after the last one of the prefix; None until something was finished."""
    committed: int | None = None
    next_offset: int | None = None
    """The offset after the last one taken."""
    after: dict[int, int] = field(default_factory=dict)
    """Of those of `open` that stand for several offsets, the offset that follows."""


class CommitTracker(Generic[P]):
    """Per partition `P`, what was taken, what is done and what may be committed.

    Invariant: `position` never exceeds the lowest offset that was taken and is not done. Offsets that the log skips
    (compacted records, transaction markers) hold nothing back. A partition is known from `assign` to `revoke`;
    between, offsets must be taken in ascending order.
    """

    def __init__(self) -> None:
        self._partitions: dict[P, _Partition] = {}

    def assign(self, partition: P, start: int | None = None) -> None:
        """`start` is where reading begins."""
        self._partitions[partition] = _Partition(next_offset=start)

    def revoke(self, partition: P) -> None:
        self._partitions.pop(partition, None)

    def taken(self, partition: P, offset: int, following: int | None = None) -> None:
        """`following` is the offset after it, where that is not the next number."""
        state = self._partitions[partition]
        state.open.append(offset)
        state.next_offset = offset + 1
        if following is not None and following != offset + 1:
            state.next_offset = state.after[offset] = following

    def done(self, partition: P, offset: int) -> None:
        """Marks an offset finished; of no effect for a partition that was revoked meanwhile."""
        state = self._partitions.get(partition)
        if state is None:
            return
        state.done.add(offset)
        while state.open and state.open[0] in state.done:
            finished = state.open.popleft()
            state.done.remove(finished)
            state.position = state.after.pop(finished, finished + 1) if state.after else finished + 1

    def committable(self) -> dict[P, int]:
        """Per partition the offset to commit (the next to be read), where it moved since `committed`."""
        return {
            partition: state.position
            for partition, state in self._partitions.items()
            if state.position is not None and state.position != state.committed
        }

    def committed(self, offsets: dict[P, int]) -> None:
        """Notes that these offsets were committed."""
        for partition, offset in offsets.items():
            if (state := self._partitions.get(partition)) is not None:
                state.committed = offset

    def open_count(self, partition: P) -> int:
        """How many taken offsets hold the prefix back or lie behind one that does."""
        state = self._partitions.get(partition)
        return len(state.open) if state else 0

    def next_offset(self, partition: P) -> int | None:
        """The offset after the last one taken, or where reading begins; None when the partition is not assigned."""
        state = self._partitions.get(partition)
        return state.next_offset if state else None

    def done_below(self, partition: P) -> int | None:
        """Every offset that was taken below this one is done, and none of the log's before it is left to be taken."""
        state = self._partitions.get(partition)
        if state is None:
            return None
        return state.open[0] if state.open else state.next_offset

    def unfinished_from(self, partition: P) -> int:
        """The lowest offset that was taken and is not done.

        Raises:
            KeyError: there is none, or the partition is not assigned.
        """
        state = self._partitions[partition]
        if not state.open:
            raise KeyError(partition)
        return state.open[0]
