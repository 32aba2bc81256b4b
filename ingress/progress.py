"""How far a reader is in each partition of its topic, and for how long it has read nothing of what is there."""

from collections.abc import Mapping


class Progress:
    """The next offset to read of each partition, and when it was last known that nothing before it was left out.

    A partition is quiet since its last record was taken, or since a look at the log found none beyond the position.
    It has no clock: the caller says what time it is.
    """

    def __init__(self, positions: Mapping[int, int], now: float) -> None:
        self._positions = dict(positions)
        self._current_at = dict.fromkeys(positions, now)
        """Per partition the last time at which it moved, or was seen to be read to its end."""

    @property
    def positions(self) -> Mapping[int, int]:
        """Per partition the offset of the next record to read."""
        return self._positions

    def read(self, partition: int, next_offset: int, now: float) -> None:
        """Every record of the partition before `next_offset` was taken. It may be lower than before: the topic was
        created again."""
        self._positions[partition] = next_offset
        self._current_at[partition] = now

    def looked(self, positions: Mapping[int, int], ends: Mapping[int, int], now: float) -> None:
        """The logs ended at `ends`, when the consumer, with nothing in hand, stood at `positions`: beyond ours where
        only transaction markers follow the last record."""
        for partition, position in positions.items():
            if position >= ends[partition]:
                self.read(partition, position, now)

    def quiet_seconds(self, now: float) -> float:
        """How long the partition that has been quiet for longest is quiet."""
        return max((now - at for at in self._current_at.values()), default=0.0)

    def unread(self, ends: Mapping[int, int], now: float, quiet_seconds: float) -> dict[int, int]:
        """Records that wait before `ends`, of partitions that have been quiet for so long."""
        return {
            partition: ends[partition] - position
            for partition, position in self._positions.items()
            if ends[partition] > position and now - self._current_at[partition] >= quiet_seconds
        }
