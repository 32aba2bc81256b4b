"""What the client is given of fetched records: what it can decode, within limits, and never less than was there."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.kafka.fetch_screen import FIRST_BYTES, BrokenBatch, FetchScreen
from tests.unit.ops.batches import (
    CODECS,
    CONTROL,
    GZIP,
    HEADER_BYTES,
    LZ4,
    NONE,
    SNAPPY,
    TRANSACTIONAL,
    ZSTD,
    Told,
    batch,
    batches,
    bomb,
    of_size,
    packed,
    read,
    values,
    with_header,
)
from workers.records import UnreadableRecord

EVERY_CODEC = pytest.mark.parametrize("codec", CODECS, ids=CODECS.values())
LIMIT = 100_000
HELLO = [*values("Hello, hello, hello.", "And again, again, again.")]


def screen(limit: int = LIMIT) -> FetchScreen:
    return FetchScreen(max_unpacked_bytes=limit)


def is_placeholder(told: Told) -> bool:
    return (told.key, told.value, told.headers) == (None, None, [])


@pytest.mark.parametrize("codec", [NONE, *CODECS])
def test_records_of_every_codec_are_read_as_they_were_written(codec: int) -> None:
    screening = screen()
    fetched = batch(*HELLO, offset=7, codec=codec) + batch(*values("third"), offset=9)
    expected = read(batch(*HELLO, offset=7) + batch(*values("third"), offset=9))
    passed = screening.passed("t", 0, 7, fetched)
    assert read(passed) == expected
    assert all(not each.compression_type for each in batches(passed)), "the client unpacks nothing"
    assert screening.notes == {}


def test_what_needs_no_change_is_handed_on_as_it_came() -> None:
    fetched = batch(*HELLO) + batch(*values("cut off"), offset=2)[:-3]
    assert screen().passed("t", 0, 0, fetched) is fetched


@EVERY_CODEC
def test_content_of_the_limit_passes_and_a_byte_more_is_one_unreadable_record(codec: int) -> None:
    """P, L: it takes its place, so that it can be refused like any other record."""
    screening = screen()
    for size in (LIMIT - 1, LIMIT):
        fits = batch(of_size(size), offset=3, codec=codec)
        assert read(screening.passed("t", 0, 3, fits)) == read(batch(of_size(size), offset=3))
    assert screening.notes == {}
    fetched = batch(of_size(LIMIT + 1), offset=4, last_offset=6, codec=codec)
    (told,) = read(screening.passed("t", 0, 4, fetched))
    assert (told.offset, is_placeholder(told)) == (4, True)
    content = fetched[HEADER_BYTES:]
    note = screening.notes["t", 0, 4]
    assert isinstance(note, UnreadableRecord)
    assert (note.topic, note.partition, note.offset, note.last_offset) == ("t", 0, 4, 6)
    assert (note.reason, note.size, note.digest) == ("too_large_unpacked", len(content), sha256(content).hexdigest())
    assert note.first_bytes == content[:FIRST_BYTES]
    assert note.timestamp == told.timestamp


@EVERY_CODEC
def test_what_stands_around_a_batch_that_is_too_large_passes(codec: int) -> None:
    """P"""
    fetched = (
        batch(*values("before"), offset=0, codec=codec)
        + batch(of_size(LIMIT + 1), offset=1, codec=codec)
        + batch(*values("behind"), offset=2, codec=codec)
    )
    told = read(screen().passed("t", 0, 0, fetched))
    assert [(each.offset, each.value) for each in told] == [(0, b"before"), (1, None), (2, b"behind")]


@EVERY_CODEC
def test_a_batch_that_is_too_large_has_its_place_where_the_fetch_began(codec: int) -> None:
    """L: the client drops records before the offset that it asked for."""
    screening = screen()
    fetched = batch(of_size(60_000), of_size(60_000), *values("third"), offset=10, codec=codec)
    (told,) = read(screening.passed("t", 0, 11, fetched))
    assert (told.offset, is_placeholder(told)) == (11, True)
    note = screening.notes["t", 0, 11]
    assert isinstance(note, UnreadableRecord)
    assert (note.offset, note.last_offset) == (11, 12)


@pytest.mark.parametrize(("fetched_from", "at"), [(10, 10), (11, 11), (4, 10)])
def test_a_broken_batch_has_its_place_where_the_partition_stands_still(fetched_from: int, at: int) -> None:
    """Fetched from its begin, from its middle, and where compaction removed what was asked for."""
    screening = screen()
    raw = bytearray(batch(*HELLO, offset=10))
    raw[-1] ^= 1
    (told,) = read(screening.passed("t", 3, fetched_from, bytes(raw)))
    assert (told.offset, is_placeholder(told)) == (at, True)
    assert screening.notes == {("t", 3, at): BrokenBatch(at, "its checksum is wrong")}


@pytest.mark.parametrize("codec", [NONE, *CODECS])
def test_nothing_behind_a_broken_batch_passes_and_all_before_it_does(codec: int) -> None:
    """O, L: what follows would overtake it."""
    screening = screen()
    broken = bytearray(batch(*values("broken, broken, broken"), offset=2, codec=codec))
    broken[-1] ^= 1
    fetched = batch(*HELLO, codec=codec) + bytes(broken) + batch(*values("behind"), offset=3, codec=codec)
    told = read(screening.passed("t", 0, 0, fetched))
    assert told[:2] == read(batch(*HELLO))
    assert [(each.offset, each.value) for each in told[2:]] == [(2, None)]
    assert screening.notes.keys() == {("t", 0, 2)}


@pytest.mark.parametrize("told_offset", [-1, 0, 1, 2**62])
def test_a_broken_batch_that_lies_about_its_offset_has_its_place_behind_the_one_before(told_offset: int) -> None:
    """L, C: at another place it would be passed over, or never be met."""
    screening = screen()
    broken = bytearray(batch(*values("broken"), offset=told_offset))
    broken[-1] ^= 1
    told = read(screening.passed("t", 0, 0, batch(*HELLO) + bytes(broken)))
    assert [each.offset for each in told] == [0, 1, 2]
    assert screening.notes == {("t", 0, 2): BrokenBatch(2, "its checksum is wrong")}


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_a_codec_that_is_not_known_is_a_broken_batch(codec: int) -> None:
    screening = screen()
    fetched = with_header(batch(*HELLO), offset=4, bits=codec)
    (told,) = read(screening.passed("t", 0, 5, fetched))
    assert (told.offset, is_placeholder(told)) == (5, True)
    note = screening.notes["t", 0, 5]
    assert isinstance(note, BrokenBatch)
    assert f"codec {codec}" in note.reason


@EVERY_CODEC
def test_content_that_is_not_of_its_codec_is_a_broken_batch(codec: int) -> None:
    """Its checksum is right: the producer wrote it so."""
    screening = screen()
    screening.passed("t", 0, 0, with_header(batch(*HELLO), offset=0, bits=codec))
    assert isinstance(screening.notes["t", 0, 0], BrokenBatch)


def test_a_batch_of_an_old_message_format_is_a_broken_batch() -> None:
    screening = screen()
    raw = bytearray(batch(*HELLO, offset=4))
    raw[16] = 1
    screening.passed("t", 0, 4, bytes(raw))
    note = screening.notes["t", 0, 4]
    assert isinstance(note, BrokenBatch)
    assert "message format 1" in note.reason


@pytest.mark.parametrize("bits", [TRANSACTIONAL, TRANSACTIONAL | CONTROL])
@pytest.mark.parametrize("codec", [NONE, *CODECS])
@pytest.mark.parametrize("escapes", [False, True])
def test_transactional_and_control_batches_keep_their_bits(bits: int, codec: int, escapes: bool) -> None:
    """X: the client leaves out what was aborted by these bits, and by the producer's id."""
    screening = screen()
    screening.escapes_names = escapes
    fetched = batch((b"\0\0\0\1", b"\0" * 100, []), offset=5, bits=bits, producer_id=42, codec=codec)
    (passed,) = batches(screening.passed("t", 0, 5, fetched))
    assert (passed.is_transactional, passed.is_control_batch) == (True, bool(bits & CONTROL))
    assert (passed.producer_id, passed.base_offset) == (42, 5)
    (record,) = passed
    assert record.key == b"\0\0\0\1", "the kind of the marker"


def test_a_batch_of_an_aborted_transaction_that_is_too_large_stays_aborted() -> None:
    """X: it is left out as any other of its transaction."""
    fetched = batch(of_size(LIMIT + 1), offset=5, bits=TRANSACTIONAL, producer_id=42, codec=ZSTD)
    (passed,) = batches(screen().passed("t", 0, 5, fetched))
    assert (passed.is_transactional, passed.producer_id) == (True, 42)


@pytest.mark.parametrize("codec", [NONE, *CODECS])
def test_names_that_are_no_utf_8_come_escaped_once_they_are_looked_at(codec: int) -> None:
    plain = batch((b"k", b"v" * 50, [("caf_mark", b"1"), ("ok", None)]), offset=3)
    content = plain[HEADER_BYTES:].replace(b"caf_mark", b"caf\xe9mark")
    strange = with_header(plain[:HEADER_BYTES] + packed(codec, content), offset=3, bits=codec)
    screening = screen()
    with pytest.raises(UnicodeDecodeError):
        read(screening.passed("t", 0, 3, strange))
    screening.escapes_names = True
    (told,) = read(screening.passed("t", 0, 3, strange))
    assert (told.offset, told.key, told.value) == (3, b"k", b"v" * 50)
    assert told.headers == [("caf\\xe9mark", b"1"), ("ok", None)]
    assert screening.notes == {}


@EVERY_CODEC
def test_a_last_batch_that_is_cut_off_is_left_to_the_next_fetch(codec: int) -> None:
    screening = screen()
    first, second = batch(*HELLO, codec=codec), batch(*values("behind"), offset=2, codec=codec)
    for length in range(len(second)):
        assert read(screening.passed("t", 0, 0, first + second[:length])) == read(batch(*HELLO))
    assert screening.notes == {}


@pytest.mark.parametrize("codec", [NONE, *CODECS])
@pytest.mark.parametrize("escapes", [False, True])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_bit_that_turned_is_noticed_or_changes_nothing(codec: int, escapes: bool, data: st.DataObject) -> None:
    """L, D: of what a batch's checksum covers, and of what stands before it. Its offset is outside of every checksum;
    of that see `workers.cursors`."""
    screening = screen()
    screening.escapes_names = escapes
    raw = bytearray(batch(*HELLO, offset=5, codec=codec, bits=TRANSACTIONAL, producer_id=42))
    bit = data.draw(st.integers(64, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    told = read(screening.passed("t", 0, 5, bytes(raw)))
    if screening.notes:
        assert [isinstance(note, BrokenBatch) for note in screening.notes.values()] == [True]
        assert screening.notes.keys() == {("t", 0, 5)}
        assert [(each.offset, is_placeholder(each)) for each in told] == [(5, True)]
    else:
        assert told == read(batch(*HELLO, offset=5))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([NONE, *CODECS]), min_size=2, max_size=4), st.booleans(), st.data())
def test_of_several_batches_with_a_bit_turned_all_before_it_pass_and_no_other_content_does(
    codecs: list[int], escapes: bool, data: st.DataObject
) -> None:
    """L, O"""
    screening = screen()
    screening.escapes_names = escapes
    each = [batch(*HELLO, offset=2 * n, codec=codec) for n, codec in enumerate(codecs)]
    whole = read(b"".join(batch(*HELLO, offset=2 * n) for n in range(len(codecs))))
    turned = data.draw(st.integers(0, len(each) - 1))
    bit = data.draw(st.integers(64, 8 * len(each[turned]) - 1))
    damaged = bytearray(each[turned])
    damaged[bit // 8] ^= 1 << bit % 8
    told = read(screening.passed("t", 0, 0, b"".join([*each[:turned], bytes(damaged), *each[turned + 1 :]])))
    if screening.notes:
        assert screening.notes.keys() == {("t", 0, 2 * turned)}
        placeholder = told.pop()
        assert (placeholder.offset, is_placeholder(placeholder)) == (2 * turned, True)
        assert told == whole[: 2 * turned]
    else:
        # Nothing of it changed, or its length points beyond the end: then it is fetched again, as the first one.
        assert told in (whole, whole[: 2 * turned])


@settings(max_examples=400, deadline=None)
@given(rubbish=st.binary(max_size=400), fetched_from=st.integers(0, 2**40), escapes=st.booleans(), data=st.data())
def test_random_bytes_never_raise_and_are_never_passed_over(
    rubbish: bytes, fetched_from: int, escapes: bool, data: st.DataObject
) -> None:
    """P, L: an exception here would end the client's fetch task; bytes that are dropped would be records."""
    screening = screen()
    screening.escapes_names = escapes
    raw = bytearray(
        batch(*HELLO, offset=data.draw(st.integers(0, 100)), codec=data.draw(st.sampled_from([NONE, *CODECS])))
    )
    for bit in data.draw(st.lists(st.integers(0, 8 * len(raw) - 1), max_size=4)):
        raw[bit // 8] ^= 1 << bit % 8
    for damaged in (rubbish, bytes(raw), bytes(raw) + rubbish, bytes(raw[: len(rubbish)]) + rubbish):
        passed = screening.passed("t", 0, fetched_from, damaged)
        assert bool(passed) == bool(damaged)


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=200),
    bits=st.integers(-(2**15), 2**15 - 1),
    count=st.integers(-(2**31), 2**31 - 1),
    escapes=st.booleans(),
)
def test_random_content_with_the_right_checksum_never_raises(
    content: bytes, bits: int, count: int, escapes: bool
) -> None:
    """P: a producer can write anything."""
    screening = screen()
    screening.escapes_names = escapes
    header = bytearray(batch(*HELLO)[:HEADER_BYTES])
    header[57:61] = count.to_bytes(4, "big", signed=True)
    assert screening.passed("t", 0, 0, with_header(bytes(header) + content, offset=0, bits=bits))


_MEASURED = """
import resource, sys
from ops.kafka.fetch_screen import FetchScreen
screen, fetched = FetchScreen(max_unpacked_bytes=int(sys.argv[1])), open(sys.argv[2], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
screen.passed("t", 0, 0, fetched)
print(len(screen.notes), 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD], ids=CODECS.values())
def test_a_bomb_in_a_batch_takes_no_more_memory_than_the_limit(codec: int, tmp_path: Path) -> None:
    """P"""
    limit = 16 * 1024 * 1024
    file = tmp_path / "fetched"
    file.write_bytes(with_header(batch(*HELLO)[:HEADER_BYTES] + bomb(codec, 200_000_000), offset=0, bits=codec))
    measured = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(limit), str(file)], capture_output=True, text=True, check=True
    )
    refused, taken = map(int, measured.stdout.split())
    assert refused == 1
    assert taken < 3 * limit + 2 * file.stat().st_size


@EVERY_CODEC
def test_batches_that_came_together_are_unpacked_as_far_as_the_limit_and_left_to_the_next_fetch(codec: int) -> None:
    """P: a megabyte holds hundreds of batches that each unpack to just below the limit."""
    fetched = b"".join(batch(of_size(LIMIT - 1_000), codec=codec, offset=offset) for offset in range(20))
    screened = screen().passed("t", 0, 0, fetched)
    assert [told.offset for told in read(screened)] == [0, 1]
    assert len(screened) < 3 * LIMIT
