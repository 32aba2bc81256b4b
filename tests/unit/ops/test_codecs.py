"""Whatever compressed bytes say, unpacking takes no more than its limit and raises nothing but its two errors."""

import gzip
import subprocess
import sys
from pathlib import Path

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.kafka.codecs import TooLarge, Undecodable, unpack
from tests.unit.ops.batches import CODECS, GZIP, LZ4, SNAPPY, ZSTD, bomb, packed

LIMIT = 1_000_000
EVERY_CODEC = pytest.mark.parametrize("codec", CODECS, ids=CODECS.values())


@EVERY_CODEC
@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=3_000), times=st.integers(1, 200))
def test_what_a_producer_packed_is_unpacked_to_the_same_bytes(codec: int, content: bytes, times: int) -> None:
    assert unpack(codec, packed(codec, content * times), LIMIT) == content * times


@EVERY_CODEC
@pytest.mark.parametrize("byte", [b"\0", b"x"])
def test_content_of_the_limit_is_unpacked_and_a_byte_more_is_too_large(codec: int, byte: bytes) -> None:
    for size in (0, 1, LIMIT - 1, LIMIT):
        assert unpack(codec, packed(codec, byte * size), LIMIT) == byte * size
    with pytest.raises(TooLarge):
        unpack(codec, packed(codec, byte * (LIMIT + 1)), LIMIT)


def test_snappy_without_frames_is_unpacked_too() -> None:
    """librdkafka writes one block, Java and aiokafka write frames around blocks."""
    assert unpack(SNAPPY, bytes(cramjam.snappy.compress_raw(b"x" * 500)), 500) == b"x" * 500
    with pytest.raises(TooLarge):
        unpack(SNAPPY, bytes(cramjam.snappy.compress_raw(b"x" * 501)), 500)


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_several_streams_behind_each_other_are_one_content(codec: int) -> None:
    two = packed(codec, b"one ") + packed(codec, b"two")
    assert unpack(codec, two, 7) == b"one two"
    with pytest.raises(TooLarge):
        unpack(codec, two, 6)


def test_blocks_of_snappy_share_one_limit() -> None:
    """Each block is within it, and all together are not."""
    blocks = packed(SNAPPY, b"\0" * 200_000)
    assert unpack(SNAPPY, blocks, 200_000) == b"\0" * 200_000
    with pytest.raises(TooLarge):
        unpack(SNAPPY, blocks, 100_000)


@EVERY_CODEC
def test_content_that_is_cut_off_is_undecodable_wherever_it_is_cut(codec: int) -> None:
    whole = packed(codec, bytes(range(256)) * 20)
    for length in range(len(whole)):
        try:
            # A cut between two blocks or streams can't be seen here; the batch's checksum has seen it.
            assert bytes(range(256)) * 20 != unpack(codec, whole[:length], LIMIT)
        except Undecodable:
            continue


@pytest.mark.parametrize("codec", [0, 5, 6, 7, 99, -1])
def test_a_codec_that_is_not_known_is_undecodable(codec: int) -> None:
    with pytest.raises(Undecodable, match=f"codec {codec}"):
        unpack(codec, b"x", LIMIT)


@settings(max_examples=300, deadline=None)
@given(codec=st.sampled_from([*CODECS]), content=st.binary(max_size=200), prefix=st.integers(0, 30), data=st.data())
def test_random_bytes_raise_nothing_else(codec: int, content: bytes, prefix: int, data: st.DataObject) -> None:
    """Also where they begin like a stream of the codec, or are one with some bits turned."""
    stream = bytearray(packed(codec, b"Hello, hello, hello." * 5))
    for bit in data.draw(st.lists(st.integers(0, 8 * len(stream) - 1), max_size=3)):
        stream[bit // 8] ^= 1 << bit % 8
    for damaged in (content, bytes(stream[:prefix]) + content, bytes(stream)):
        try:
            assert len(unpack(codec, damaged, 1_000)) <= 1_000
        except (TooLarge, Undecodable):
            continue


_MEASURED = """
import resource, sys
from ops.kafka.codecs import TooLarge, unpack
codec, limit, packed = int(sys.argv[1]), int(sys.argv[2]), open(sys.argv[3], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    unpack(codec, packed, limit)
except TooLarge:
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@EVERY_CODEC
def test_a_bomb_takes_no_more_memory_than_the_limit(codec: int, tmp_path: Path) -> None:
    """P: 200 MB of zeros. Measured as a process of its own, for the codecs allocate outside of Python."""
    limit = 16 * 1024 * 1024
    file = tmp_path / "packed"
    file.write_bytes(bomb(codec, 200_000_000))
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(codec), str(limit), str(file)], capture_output=True, text=True, check=True
    )
    assert measured.stdout, "it was not too large"
    assert int(measured.stdout) < 3 * limit


def test_a_gzip_stream_that_ends_in_rubbish_is_undecodable() -> None:
    with pytest.raises(Undecodable):
        unpack(GZIP, gzip.compress(b"x") + b"rubbish", LIMIT)
