"""Record batches are told apart, and changed in nothing but what was asked for."""

import pytest
from aiokafka.record.util import encode_varint
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.kafka.record_batches import NotABatch, batches_of, one_record, placeholder, with_readable_names
from tests.unit.ops.batches import (
    CODECS,
    CONTROL,
    GZIP,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    NONE,
    TRANSACTIONAL,
    Headers,
    batch,
    batches,
    read,
    values,
)

names = st.text(st.characters(codec="utf-8"), max_size=12)
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=8)), max_size=4)
records = st.lists(
    st.tuples(st.none() | st.binary(max_size=8), st.none() | st.binary(max_size=300), headers), min_size=1
)


def content_of(raw: bytes) -> bytes:
    return raw[HEADER_BYTES:]


def test_batches_are_told_apart_with_what_their_headers_say() -> None:
    first = batch(*values("a", "b"), offset=10, codec=GZIP, bits=TRANSACTIONAL)
    second = batch(*values("c"), offset=12, last_offset=19)
    told = [
        (each.offset, each.last_offset, each.codec, each.record_count, each.is_intact)
        for each in batches_of(first + second)
    ]
    assert told == [(10, 11, GZIP, 2, True), (12, 19, NONE, 1, True)]
    assert [each.raw for each in batches_of(first + second)] == [first, second]


def test_a_last_batch_that_is_cut_off_is_left_out() -> None:
    """The broker cuts where its limit is; the client fetches it again."""
    first, second = batch(*values("a")), batch(*values("b"), offset=1)
    for length in range(len(second)):
        assert [each.raw for each in batches_of(first + second[:length])] == [first]


@pytest.mark.parametrize("length", [1, 11, 12, 60, 61, 70])
def test_a_first_batch_that_is_cut_off_is_no_batch(length: int) -> None:
    with pytest.raises(NotABatch):
        list(batches_of(batch(*values("a"))[:length]))


def test_nothing_fetched_is_no_batches() -> None:
    assert list(batches_of(b"")) == []


def test_a_changed_byte_behind_the_checksum_is_seen() -> None:
    raw = bytearray(batch(*values("a")))
    raw[-1] ^= 1
    (damaged,) = batches_of(bytes(raw))
    assert not damaged.is_intact


@pytest.mark.parametrize("magic", [0, 1, 3, 127])
def test_another_message_format_is_named(magic: int) -> None:
    raw = bytearray(batch(*values("a"), offset=7))
    raw[16] = magic
    with pytest.raises(NotABatch, match=f"format {magic}") as raised:
        list(batches_of(bytes(raw)))
    assert raised.value.offset == 7


@pytest.mark.parametrize("bits", [0, TRANSACTIONAL, CONTROL | TRANSACTIONAL, LOG_APPEND_TIME])
@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_around_other_content_keeps_all_else(codec: int, bits: int) -> None:
    plain = batch(*values("a", "b"), offset=5, bits=bits, producer_id=42, last_offset=9)
    packed = batch(*values("a", "b"), offset=5, bits=bits, producer_id=42, last_offset=9, codec=codec)
    (told,) = batches_of(packed)
    (made,) = batches(told.with_content(content_of(plain)))
    (expected,) = batches(plain)
    for name in (
        "base_offset",
        "next_offset",
        "is_transactional",
        "is_control_batch",
        "timestamp_type",
        "first_timestamp",
        "max_timestamp",
        "producer_id",
        "compression_type",
    ):
        assert getattr(made, name) == getattr(expected, name), name
    assert list(map(str, made)) == list(map(str, expected))


@pytest.mark.parametrize("offset", [0, 1, 2**40])
def test_a_placeholder_is_one_empty_record_at_its_offset(offset: int) -> None:
    (told,) = read(placeholder(offset))
    assert (told.offset, told.key, told.value, told.headers) == (offset, None, None, [])


@pytest.mark.parametrize("behind", [0, 1, 63, 64, 5_000])
def test_one_record_stands_so_far_behind_its_batch(behind: int) -> None:
    (told,) = batches_of(batch(*values("a"), offset=100, last_offset=100 + behind))
    (read_again,) = read(told.with_content(one_record(behind), count=1))
    assert (read_again.offset, read_again.value) == (100 + behind, None)


@settings(max_examples=200, deadline=None)
@given(records)
def test_names_that_are_utf_8_are_left_as_they_are(drawn: list[tuple[bytes | None, bytes | None, Headers]]) -> None:
    """And with them every byte of the records."""
    content = content_of(batch(*drawn))
    assert with_readable_names(content, len(drawn)) == content


@settings(max_examples=200, deadline=None)
@given(records, st.data())
def test_a_name_that_is_no_utf_8_is_escaped_and_nothing_else_changes(
    drawn: list[tuple[bytes | None, bytes | None, Headers]], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(drawn) - 1))
    key, value, others = drawn[at]
    position = data.draw(st.integers(0, len(others)))
    placed = [*others[:position], ("caf_________mark", b"v"), *others[position:]]
    drawn[at] = (key, value, placed)
    raw = batch(*drawn)
    strange = raw.replace(b"caf_________mark", b"caf\xe9________mark")
    (told,) = batches_of(strange)
    escaped = read(told.with_content(with_readable_names(content_of(strange), len(drawn))))
    expected = read(raw)
    expected[at].headers[position] = ("caf\\xe9________mark", b"v")
    assert escaped == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(-3, 5))
def test_content_that_is_no_records_raises_what_is_promised_and_nothing_else(content: bytes, count: int) -> None:
    try:
        with_readable_names(content, count)
    except (ValueError, IndexError):
        return


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.data())
def test_random_bytes_are_batches_or_no_batch(rubbish: bytes, data: st.DataObject) -> None:
    raw = batch(*values("a"))
    begin = data.draw(st.integers(0, len(raw)))
    for damaged in (rubbish, raw[:begin] + rubbish, raw + rubbish):
        try:
            for each in batches_of(damaged):
                assert isinstance(each.is_intact, bool)
        except NotABatch:
            continue


@pytest.mark.parametrize("size", [-(2**40), -(2**31), -5, 2**31, 2**40])
def test_a_hostile_size_of_a_header_name_raises_and_does_not_crash_the_process(size: int) -> None:
    """aiokafka's reading of numbers looks at no bounds."""
    body = bytearray(b"\x00")
    for number in (0, 0, -1, -1, 1, size):
        encode_varint(number, body.append)
    sized = bytearray()
    encode_varint(len(body), sized.append)
    with pytest.raises(ValueError):
        with_readable_names(bytes(sized + body), 1)
