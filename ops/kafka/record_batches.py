"""Kafka's record batches (message format 2), as far as a reader must look at them before the client decodes them."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from aiokafka.record.util import calc_crc32c, decode_varint, encode_varint

_HEADER = struct.Struct(">qiibIhiqqqhii")
_FRAME = struct.Struct(">qi")
"""What stands before the bytes that a batch's length counts."""
_CRC_FROM = struct.calcsize(">qiibI")
_FORMAT = 2
_CODEC_BITS = 0x07
_LONGEST_NUMBER = 10
"""Bytes of a variable-length number."""


class Batch(NamedTuple):
    """One batch as it was fetched."""

    raw: bytes
    offset: int
    """Of its first record."""
    last_offset: int
    """The last one that it stands for, also where compaction removed that record."""
    codec: int
    """0: not compressed."""
    timestamp_ms: int
    """The newest of its records'."""
    record_count: int
    fields: tuple[int, ...]
    """The header's numbers, in the order of `_HEADER`."""

    @property
    def content(self) -> bytes:
        """The records, as they are packed."""
        return self.raw[_HEADER.size :]

    @property
    def is_intact(self) -> bool:
        """Whether the checksum is right."""
        return bool(calc_crc32c(self.raw[_CRC_FROM:]) == self.fields[4])

    def with_content(self, content: bytes, count: int | None = None) -> bytes:
        """The same batch around other records, not compressed. Its checksum is not made anew."""
        fields = list(self.fields)
        fields[1] = _HEADER.size - _FRAME.size + len(content)
        fields[5] &= ~_CODEC_BITS
        fields[12] = self.record_count if count is None else count
        return _HEADER.pack(*fields) + content


class NotABatch(Exception):
    """Bytes that are no record batch of message format 2."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


def batches_of(records: bytes) -> Iterator[Batch]:
    """The whole batches in fetched bytes. A broker cuts the last one off where its limit is, but never the first.

    Raises:
        NotABatch: what follows can't be told apart.
    """
    at = 0
    while len(records) - at >= _HEADER.size:
        offset, length = _FRAME.unpack_from(records, at)
        end = at + _FRAME.size + length
        if end > len(records):
            break
        fields = _HEADER.unpack_from(records, at)
        if fields[3] != _FORMAT:
            raise NotABatch(offset, f"it has message format {fields[3]}; only format {_FORMAT} can be read")
        if end - at < _HEADER.size:
            raise NotABatch(offset, f"its length of {length} bytes can't be right")
        last_offset = offset + fields[6]
        yield Batch(records[at:end], offset, last_offset, fields[5] & _CODEC_BITS, fields[8], fields[12], fields)
        at = end
    if records and at == 0:
        raise NotABatch(-1, "its length can't be right")


def placeholder(offset: int) -> bytes:
    """A batch with one empty record at `offset`, not compressed and without a checksum."""
    content = one_record()
    length = _HEADER.size - _FRAME.size + len(content)
    return _HEADER.pack(offset, length, -1, _FORMAT, 0, 0, 0, -1, -1, -1, -1, -1, 1) + content


def one_record(offset_delta: int = 0) -> bytes:
    """The content of a batch that has a single record with neither key, value nor headers, so far behind the batch's
    offset."""
    body = bytearray(b"\x00")  # attributes
    for number in (0, offset_delta, -1, -1, 0):  # time beyond the batch's; offset; no key; no value; no headers
        encode_varint(number, body.append)
    return _sized(body)


def with_readable_names(content: bytes, count: int) -> bytes:
    """Records with their header names as UTF-8; bytes of a name that are none are escaped, as in `caf\\xe9`.

    Raises:
        ValueError, IndexError: that is no sequence of `count` records.
    """
    reader, records = _Reader(content), bytearray()
    for _ in range(count):
        records += _sized(_with_readable_names(_Reader(reader.bytes_of(reader.number()))))
    return bytes(records)


def _with_readable_names(record: "_Reader") -> bytearray:
    record.bytes_of(1)  # attributes
    for _ in ("timestamp", "offset"):
        record.number()
    for _ in ("key", "value"):
        record.bytes_of(max(0, record.number()))
    count = record.number()
    readable = bytearray(record.so_far)
    for _ in range(count):
        name = record.bytes_of(record.number()).decode(errors="backslashreplace").encode()
        encode_varint(len(name), readable.append)
        readable += name
        size = record.number()
        encode_varint(size, readable.append)
        readable += record.bytes_of(max(0, size))
    return readable


class _Reader:
    """Reads numbers and bytes one after the other. aiokafka's own reading of a number looks at no bounds: beyond the
    end of its buffer it crashes the process. So the buffer ends in zeros, and nothing is read beyond the content.
    """

    def __init__(self, content: bytes) -> None:
        self._buffer = bytearray(content) + bytes(_LONGEST_NUMBER)
        self._end = len(content)
        self._at = 0

    def number(self) -> int:
        if self._at >= self._end:
            raise ValueError("a record is cut off")
        number, self._at = decode_varint(self._buffer, self._at)
        return int(number)

    def bytes_of(self, size: int) -> bytes:
        if not 0 <= size <= self._end - self._at:
            raise ValueError(f"a part of {size} bytes does not fit into its record")
        begin, self._at = self._at, self._at + size
        return bytes(self._buffer[begin : self._at])

    @property
    def so_far(self) -> bytes:
        """What was read."""
        return bytes(self._buffer[: self._at])


def _sized(record: bytearray) -> bytes:
    size = bytearray()
    encode_varint(len(record), size.append)
    return bytes(size + record)
