"""The log of a partition as a broker keeps it on its disk: which codec a batch has, and a bit that the disk got wrong.

The layout is Kafka's record batch of version 2.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

_BASE_OFFSET_AND_LENGTH = struct.Struct(">qi")
_ATTRIBUTES_AT = 21
_LAST_OFFSET_DELTA = struct.Struct(">i")
_HEADER_BYTES = 61
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_CODEC_MASK = 0x07
_CONTROL_MASK = 0x20


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch in a segment file."""

    path: Path
    position: int
    """Its first byte in the file."""
    size: int
    base_offset: int
    last_offset: int
    codec: str
    is_control: bool

    def flip_a_bit(self) -> None:
        """Changes one bit of its records on the disk; the same again puts it right. A broker that runs serves what is
        in the file at once."""
        place = self.position + (_HEADER_BYTES + self.size) // 2
        with self.path.open("r+b") as segment:
            segment.seek(place)
            (byte,) = segment.read(1)
            segment.seek(place)
            segment.write(bytes([byte ^ 0x10]))


def stored_batches(data: Path, topic: str, partition: int) -> list[StoredBatch]:
    """The batches of a partition in their order, from the data directory of its broker."""
    return [
        batch
        for path in sorted((data / f"{topic}-{partition}").glob("*.log"))
        for batch in _batches_of(path, path.read_bytes())
    ]


def _batches_of(path: Path, content: bytes) -> list[StoredBatch]:
    batches = []
    position = 0
    while position + _HEADER_BYTES <= len(content):
        base_offset, length = _BASE_OFFSET_AND_LENGTH.unpack_from(content, position)
        if length == 0:
            break  # what a broker has reserved and not written yet
        attributes = content[position + _ATTRIBUTES_AT + 1]
        (last_delta,) = _LAST_OFFSET_DELTA.unpack_from(content, position + _ATTRIBUTES_AT + 2)
        size = _BASE_OFFSET_AND_LENGTH.size + length
        batches.append(
            StoredBatch(
                path,
                position,
                size,
                base_offset,
                base_offset + last_delta,
                _CODECS[attributes & _CODEC_MASK],
                bool(attributes & _CONTROL_MASK),
            )
        )
        position += size
    return batches
