"""Record batches as producers write them, and as a consumer reads them: both with aiokafka's own code."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cramjam
from aiokafka import codec as codecs
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
TRANSACTIONAL, CONTROL, LOG_APPEND_TIME = 0x10, 0x20, 0x08
HEADER_BYTES = 61
AT_MS = 1_767_323_045_000

_PACK: Mapping[int, Callable[[bytes], bytes]] = {
    GZIP: codecs.gzip_encode,
    SNAPPY: codecs.snappy_encode,
    LZ4: codecs.lz4_encode,
    ZSTD: codecs.zstd_encode,
}

Headers = Sequence[tuple[str, bytes | None]]


class Told(NamedTuple):
    """A record, as the consumer's client decodes it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def packed(codec: int, content: bytes) -> bytes:
    """`content`, compressed as aiokafka's producer does it."""
    return content if codec == NONE else bytes(_PACK[codec](content))


def batch(
    *records: tuple[bytes | None, bytes | None, Headers],
    offset: int = 0,
    codec: int = NONE,
    bits: int = 0,
    producer_id: int = -1,
    last_offset: int | None = None,
) -> bytes:
    """A batch of records from `offset` on; `bits` are attributes on top of the codec."""
    builder = DefaultRecordBatchBuilder(2, NONE, 0, producer_id, 0, 0, 2**31 - 1)
    for n, (key, value, headers) in enumerate(records):
        builder.append(n, AT_MS + n, key, value, list(headers))
    raw = bytes(builder.build())
    return with_header(
        raw[:HEADER_BYTES] + packed(codec, raw[HEADER_BYTES:]),
        offset=offset,
        bits=bits | codec,
        last_offset=last_offset,
    )


def with_header(raw: bytes, *, offset: int, bits: int, last_offset: int | None = None) -> bytes:
    """`raw` as a batch at `offset` with these attributes, and the right length and checksum."""
    buffer = bytearray(raw)
    struct.pack_into(">qi", buffer, 0, offset, len(buffer) - 12)
    struct.pack_into(">h", buffer, 21, bits)
    if last_offset is not None:
        struct.pack_into(">i", buffer, 23, last_offset - offset)
    struct.pack_into(">I", buffer, 17, calc_crc32c(bytes(buffer[21:])))
    return bytes(buffer)


def values(*texts: str) -> list[tuple[bytes | None, bytes | None, Headers]]:
    """Records with these values, each with a key and a header."""
    return [(b"s1", text.encode(), [("ce_id", text.encode())]) for text in texts]


def of_size(content_bytes: int) -> tuple[bytes | None, bytes | None, Headers]:
    """A record that takes so many bytes of its batch's content (70 at least)."""
    for overhead in range(8, 20):
        record: tuple[None, bytes, Headers] = (None, b"\0" * (content_bytes - overhead), [])
        if len(batch(record)) - HEADER_BYTES == content_bytes:
            return record
    raise AssertionError(f"no record has {content_bytes} bytes")


def read(records: bytes) -> list[Told]:
    """What the client decodes, control records left out as the client does it."""
    told: list[Told] = []
    for each in batches(records):
        if not each.is_control_batch:
            told += [Told(r.offset, r.timestamp, r.key, r.value, [*r.headers]) for r in each]
    return told


def batches(records: bytes) -> list[Any]:
    memory, found = MemoryRecords(records), []
    while memory.has_next():
        found.append(memory.next_batch())
    return found


def bomb(codec: int, size: int) -> bytes:
    """`size` zeros, compressed; made without holding them."""
    if codec == SNAPPY:
        return bytes(cramjam.snappy.compress_raw(b"\0" * size))
    if codec == GZIP:
        return packed(GZIP, b"\0" * size)
    compressor = (cramjam.lz4 if codec == LZ4 else cramjam.zstd).Compressor()
    for _ in range(size // 1_000_000):
        compressor.compress(b"\0" * 1_000_000)
    return bytes(compressor.finish())
