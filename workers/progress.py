"""Whether records wait and nothing happens (invariant H). No I/O, no clock.

For each partition two numbers are compared: where its readable end is, and what is done. While the first is beyond the
second and the second does not move, the partition stands still.
"""

from collections.abc import Mapping

from schemas.frozen import frozen
from workers.records import Partition


@frozen()
class Sample:
    """One look at a partition."""

    done: int
    """Every offset below is done."""
    readable_end: int
    """The offset behind the last record that may be read: where an open transaction begins, else the log's end."""
    log_end: int


@frozen()
class Lag:
    """How far a partition is behind."""

    records: int
    still_seconds: float
    """How long records have waited while nothing was done; 0 while something is, or none wait."""
    held_by_transaction_seconds: float
    """How long an open transaction has kept records from being read."""


@frozen()
class _Watched:
    done: int
    moved_at: float
    held_from: int
    held_since: float | None


class ProgressWatch:
    """Remembers when each partition moved last."""

    def __init__(self) -> None:
        self._watched: dict[Partition, _Watched] = {}
        self.lags: dict[Partition, Lag] = {}
        """By partition, as of the last look."""

    def look(self, samples: Mapping[Partition, Sample], now: float) -> None:
        """Takes one sample of each partition that is owned; others are forgotten."""
        watched: dict[Partition, _Watched] = {}
        for partition, sample in samples.items():
            before = self._watched.get(partition)
            waits = sample.readable_end > sample.done
            moved = before is None or before.done != sample.done or not waits
            held = sample.log_end > sample.readable_end
            goes_on = before is not None and before.held_since is not None and before.held_from == sample.readable_end
            since = (before.held_since if before is not None and goes_on else now) if held else None
            moved_at = now if before is None or moved else before.moved_at
            watched[partition] = _Watched(sample.done, moved_at, sample.readable_end, since)
        self._watched = watched
        self.lags = {
            partition: Lag(
                records=max(0, samples[partition].log_end - each.done),
                still_seconds=now - each.moved_at,
                held_by_transaction_seconds=0.0 if each.held_since is None else now - each.held_since,
            )
            for partition, each in watched.items()
        }
