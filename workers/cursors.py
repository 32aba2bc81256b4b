"""Where a partition is read next, and whether a gap in its offsets is real. No I/O, no clock.

Offsets may skip: transaction markers, aborted records and compacted ones take a place and are never handed out. A gap
may also be a fault of the client. So records behind a gap are read twice; only a gap that is there both times is
passed.
"""

from bisect import bisect_left
from collections.abc import Sequence

from schemas.frozen import frozen
from workers.records import KafkaRecord, offset_after


@frozen()
class Passed:
    """What `Cursor.take` made of a batch."""

    records: Sequence[KafkaRecord]
    """To be worked on, in this order."""
    read_again_from: int | None = None
    """Seek here: what follows stands behind a gap that was seen once."""
    appeared: int = 0
    """How many records the first look had skipped."""


class Cursor:
    """The reading position in one partition, for one assignment of it.

    Invariant: every offset below `next` was handed out, or lies in a gap that was seen twice.
    """

    def __init__(self, offset: int) -> None:
        self.next = offset
        """The first offset that was neither handed out nor passed."""
        self._looked: Sequence[int] | None = None
        """Offsets of the records that the first look found, from `next` on, ascending."""
        self._looked_until = 0

    def take(self, records: Sequence[KafkaRecord]) -> Passed:
        """Takes what the client returned, in the partition's order; at least one record.

        Raises:
            LogWentBack: the records stand before `next`, so the partition's log is not the one that was read so far.
        """
        first, last = records[0], records[-1]
        if first.offset < self.next:
            raise LogWentBack(self.next, first.offset)
        if self._looked is None and first.offset == self.next and offset_after(last) == self.next + len(records):
            self.next += len(records)
            return Passed(records)
        appeared = 0
        for index, record in enumerate(records):
            if self._looked is not None and record.offset < self._looked_until and not self._saw(record.offset):
                appeared += 1
            if record.offset > self.next and not self._is_known(record):
                self._looked = [each.offset for each in records[index:]]
                self._looked_until = offset_after(last)
                return Passed(records[:index], self.next, appeared)
            self.next = offset_after(record)
        if self.next >= self._looked_until:
            self._looked = None
        return Passed(records, None, appeared)

    def _is_known(self, record: KafkaRecord) -> bool:
        """Whether the first look, too, found nothing between `next` and this record."""
        if self._looked is None or record.offset >= self._looked_until:
            return False
        return bisect_left(self._looked, self.next) == bisect_left(self._looked, record.offset)

    def _saw(self, offset: int) -> bool:
        """Whether the first look found a record at this offset."""
        assert self._looked is not None
        index = bisect_left(self._looked, offset)
        return index < len(self._looked) and self._looked[index] == offset


class LogWentBack(Exception):
    """A partition gives offsets that it gave before: its topic was made anew, or its log lost its end."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"gave offset {found} where {expected} was to follow")
        self.expected = expected
        self.found = found
