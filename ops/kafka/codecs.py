"""Unpacking compressed record batches into at most so many bytes.

A few kilobytes can unpack to gigabytes, so nothing here allocates more than its limit, whatever the input says.
"""

import struct
import zlib
from collections.abc import Callable, Mapping

import cramjam

_SCRATCH_BYTES = 256 * 1024
_NO_ROOM = "failed to write whole buffer"
"""How cramjam says that the output is larger than the buffer it was given."""
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_MEMBERS = 64
"""Of a gzip stream. Producers write one; each costs a look at all that is left."""
_GZIP_WINDOW = 31
"""zlib's number for the largest window behind a gzip header."""


class TooLarge(Exception):
    """The content has more bytes than the limit."""


class Undecodable(Exception):
    """The content is not of its codec, or no codec of this program reads it."""


def unpack(codec: int, packed: bytes, limit: int) -> bytes:
    """What `packed` holds. `codec` is the number that Kafka's record batches have for it.

    Raises:
        TooLarge: more than `limit` bytes.
        Undecodable: see the class.
    """
    if codec not in _UNPACKERS:
        raise Undecodable(f"it is compressed with codec {codec}, which this version does not know")
    try:
        return _UNPACKERS[codec](packed, limit)
    except (cramjam.DecompressionError, zlib.error, struct.error, IndexError, ValueError, OverflowError) as error:
        raise Undecodable(f"its compressed content can't be unpacked: {error}") from error


def _gzip(packed: bytes, limit: int) -> bytes:
    unpacked = b""
    members = 0
    while packed:
        members += 1
        if members > _MEMBERS:
            raise ValueError(f"it has more than {_MEMBERS} members")
        # A gzip stream may have several members, one behind the other.
        member = zlib.decompressobj(_GZIP_WINDOW)
        unpacked += member.decompress(packed, limit - len(unpacked) + 1)
        if len(unpacked) > limit:
            raise TooLarge
        if not member.eof:
            raise ValueError("it is cut off")
        packed = member.unused_data
    return unpacked


def _snappy(packed: bytes, limit: int) -> bytes:
    if not packed.startswith(_XERIAL_MAGIC):
        return _snappy_block(packed, limit)
    blocks: list[bytes] = []
    left, at = limit, _XERIAL_HEADER_BYTES
    while at < len(packed):
        (size,) = struct.unpack_from(">i", packed, at)
        at += 4
        if not 0 < size <= len(packed) - at:
            raise ValueError("a block is cut off")
        blocks.append(_snappy_block(packed[at : at + size], left))
        left -= len(blocks[-1])
        at += size
    return b"".join(blocks)


def _snappy_block(packed: bytes, limit: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(packed) > limit:
        raise TooLarge
    return bytes(cramjam.snappy.decompress_raw(packed))


def _into_buffers(decompress_into: Callable[[bytes, bytearray], int]) -> Callable[[bytes, int], bytes]:
    """For codecs that don't tell how large their content is: tries buffers of growing size, up to the limit."""

    def unpack_into(packed: bytes, limit: int) -> bytes:
        size = min(limit, max(_SCRATCH_BYTES, 8 * len(packed)))
        while True:
            buffer = bytearray(size)
            try:
                return bytes(memoryview(buffer)[: decompress_into(packed, buffer)])
            except cramjam.DecompressionError as error:
                if _NO_ROOM not in str(error):
                    raise
                if size >= limit:
                    raise TooLarge from error
                size = min(limit, 4 * size)

    return unpack_into


_UNPACKERS: Mapping[int, Callable[[bytes, int], bytes]] = {
    1: _gzip,
    2: _snappy,
    3: _into_buffers(cramjam.lz4.decompress_into),
    4: _into_buffers(cramjam.zstd.decompress_into),
}
"""By the codec's number in Kafka's record batches."""
