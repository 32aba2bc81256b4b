"""Checks fetched records before the Kafka client decodes them. No I/O.

The client unpacks a batch without a limit, and an error in one batch loses what it had drained of other partitions. So
here each batch is checked first: what it is passed on has the right checksum, is unpacked within a limit, and has
header names that are UTF-8 where that is asked for. What can't be passed on is replaced by one empty record at the
batch's first offset, and noted in `notes` under that place.
"""

from dataclasses import dataclass
from hashlib import sha256

from ops.kafka.codecs import TooLarge, Undecodable, unpack
from ops.kafka.record_batches import Batch, NotABatch, batches_of, one_record, placeholder, with_readable_names
from schemas.errors import InvalidReason
from workers.records import UnreadableRecord

MAX_UNPACKED_BYTES = 32 * 1024 * 1024
"""Of one batch. Inbound records have 1 MB at most, and producers batch up to about as much before they compress. Of a
partition's batches that came with one fetch, those behind as many bytes are left for the next."""
FIRST_BYTES = 64
"""Of what is refused, for a person to recognise it by."""
TOO_LARGE: InvalidReason = "too_large_unpacked"


@dataclass(frozen=True, slots=True)
class BrokenBatch:
    """A batch that can't be decoded, and that nothing behind it in its partition may overtake."""

    offset: int
    """Where the partition stands still."""
    reason: str


Note = UnreadableRecord | BrokenBatch
Place = tuple[str, int, int]
"""Topic, partition, offset."""


class FetchScreen:
    """Looks through the fetched records of one consumer."""

    def __init__(self, *, max_unpacked_bytes: int = MAX_UNPACKED_BYTES) -> None:
        self._max_unpacked = max_unpacked_bytes
        self.notes: dict[Place, Note] = {}
        """What was replaced. The consumer takes a note out when it meets its place."""
        self.escapes_names = False
        """Whether header names are looked at, which takes time. Switched on by the first one that is no UTF-8."""

    def passed(self, topic: str, partition: int, fetched_from: int, records: bytes) -> bytes:
        """What the client may decode of `records`, which were fetched from that offset."""
        for place in [place for place in self.notes if place[:2] == (topic, partition)]:
            # The client asks again once it is done with what it had, so these were left out: aborted, or sought past.
            del self.notes[place]
        passed: list[bytes] = []
        changed = False
        expected = fetched_from
        unpacked_bytes = 0
        try:
            for batch in batches_of(records):
                if unpacked_bytes > self._max_unpacked:
                    # What is left is fetched again, once the client has passed on what it has.
                    changed = True
                    break
                if not batch.is_intact:
                    raise NotABatch(batch.offset, "its checksum is wrong")
                checked = self._checked(topic, partition, max(batch.offset, expected), batch)
                changed = changed or checked is not batch.raw
                unpacked_bytes += len(checked)
                passed.append(checked)
                expected = batch.last_offset + 1
        except NotABatch as broken:
            # A broken batch may lie about its offset, too.
            at = broken.offset if expected <= broken.offset <= expected + len(records) else expected
            self.notes[topic, partition, at] = BrokenBatch(at, broken.reason)
            passed.append(placeholder(at))
            changed = True
        return b"".join(passed) if changed else records

    def _checked(self, topic: str, partition: int, at: int, batch: Batch) -> bytes:
        """The batch as it may be decoded; `at` is the first of its offsets that was asked for.

        Raises:
            NotABatch: it can't be.
        """
        if not batch.codec and not self.escapes_names:
            return batch.raw
        try:
            content = unpack(batch.codec, batch.content, self._max_unpacked) if batch.codec else batch.content
            if self.escapes_names and batch.record_count:
                content = with_readable_names(content, batch.record_count)
        except TooLarge:
            self.notes[topic, partition, at] = self._refusal(topic, partition, at, batch)
            return batch.with_content(one_record(at - batch.offset), count=1)
        except Undecodable as error:
            raise NotABatch(batch.offset, str(error)) from error
        except (ValueError, IndexError) as error:
            raise NotABatch(batch.offset, f"its records can't be told apart: {error}") from error
        return batch.with_content(content)

    def _refusal(self, topic: str, partition: int, at: int, batch: Batch) -> UnreadableRecord:
        mebibytes = self._max_unpacked // (1024 * 1024)
        return UnreadableRecord(
            topic=topic,
            partition=partition,
            offset=at,
            last_offset=batch.last_offset,
            reason=TOO_LARGE,
            error=f"a batch of {len(batch.content)} bytes unpacks to more than {mebibytes} MiB",
            size=len(batch.content),
            digest=sha256(batch.content).hexdigest(),
            first_bytes=batch.content[:FIRST_BYTES],
            timestamp=batch.timestamp_ms,
        )
