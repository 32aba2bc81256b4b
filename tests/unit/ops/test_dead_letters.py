"""What a worker writes of a record, and the selection of dead letters."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.dead_letters import LostValue, NotADeadLetter, Place, Selection, decode_dead_letter, session_of
from schemas.publishing import Position, Record, RecordTooLarge
from store.protocol import Fence
from tests.unit.ops.letters import FAILED_AT, Kept, consumed, dead_letter, dead_letter_record
from workers.dead_letters import DeadLetters
from workers.records import FIRST_BYTES, Assignment, Partition, take

ORIGIN = Position("support.inbound.v1", 3, 17)
# Senders, too, may have names that begin with dlq.
HEADER_NAMES = st.sampled_from(["dlq.reason", "dlq.offset", "dlq.redriven", "traceparent"]) | st.text(max_size=5)
HEADERS = st.lists(st.tuples(HEADER_NAMES, st.binary(max_size=10)), max_size=6)


@given(
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=20),
    HEADERS,
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.integers(1, 9),
)
def test_a_dead_letter_gives_back_the_record_as_it_came(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], error: str, attempts: int
) -> None:
    record = dead_letter_record(ORIGIN, key, value, headers, reason="lock_lost", error=error, attempts=attempts)
    letter = decode_dead_letter(consumed(record, 5, 9))
    assert (letter.key, letter.value or b"", letter.headers) == (key, value or b"", headers)
    assert (letter.reason, letter.error, letter.attempts) == ("lock_lost", error, attempts)
    assert (letter.place, letter.origin, letter.failed_at) == (Place(5, 9), ORIGIN, FAILED_AT)


@pytest.mark.parametrize("damage", ["dlq.reason", "dlq.error", "dlq.offset", "dlq.failed_at"])
@pytest.mark.parametrize("value", [None, b"\xff"], ids=["missing", "no UTF-8"])
def test_what_no_worker_wrote_is_no_dead_letter(damage: str, value: bytes | None) -> None:
    record = dead_letter_record(ORIGIN, b"s1", b"{}", [])
    headers = [(name, value if name == damage and value else kept) for name, kept in record.headers]
    headers = [each for each in headers if value or each[0] != damage]
    with pytest.raises(NotADeadLetter, match="5:9"):
        decode_dead_letter(consumed(replace(record, headers=headers), 5, 9))
    with pytest.raises(NotADeadLetter):
        decode_dead_letter(consumed(Record("support.dlq.v1", b"s1", b"hello"), 0, 0))


@pytest.mark.parametrize(
    ("key", "value", "session_id"),
    [
        (b"s1", b'{"text": "a"}', "s1"),
        (b"s1", b'{"session_id": "s2"}', "s1"),
        (b"s1", b"no JSON", "s1"),
        (b"s1", None, "s1"),
        (None, b'{"session_id": "s2"}', "s2"),
        (b"", b'{"session_id": "s2"}', "s2"),
        (None, b'{"session_id": 7}', None),
        (None, b'{"session_id": "no spaces"}', None),
        (None, b'["s2"]', None),
        (None, b"no JSON", None),
        (None, None, None),
        (b"no spaces", b"{}", None),
        (b"\xff", b"{}", None),
    ],
)
def test_the_session_is_the_key_s_or_else_the_body_s(
    key: bytes | None, value: bytes | None, session_id: str | None
) -> None:
    assert session_of(key, value) == session_id


def test_a_selection_takes_what_fits_all_of_it() -> None:
    letter = dead_letter(ORIGIN, b"s1", b"{}", [], reason="lock_lost")
    second = timedelta(seconds=1)
    for fits in [
        Selection(),
        Selection(reasons=frozenset({"lock_timeout", "lock_lost"}), session_id="s1"),
        Selection(since=FAILED_AT, until=FAILED_AT + second),
    ]:
        assert fits.takes(letter)
    for other in [
        Selection(reasons=frozenset({"lock_timeout"})),
        Selection(session_id="s2"),
        Selection(session_id="s2", reasons=frozenset({"lock_lost"})),
        Selection(since=FAILED_AT + second),
        Selection(until=FAILED_AT),
    ]:
        assert not other.takes(letter)


def test_a_place_is_read_as_it_is_written() -> None:
    assert Place.parse(str(Place(3, 17))) == Place(3, 17)
    for wrong in ["", "3", "3:", ":17", "3:17:1", "a:b", "-1:2", "3:x"]:
        with pytest.raises(ValueError, match="PARTITION:OFFSET"):
            Place.parse(wrong)


def test_a_letter_whose_value_was_not_kept_says_what_is_left_of_it() -> None:
    record = dead_letter_record(ORIGIN, b"s1", None, [("origin", b"crm")])
    added = [("dlq.size", b"3000000"), ("dlq.digest", b"sha256:ab"), ("dlq.first_bytes", b'{"te')]
    letter = decode_dead_letter(consumed(replace(record, headers=[*record.headers, *added]), 0, 0))
    assert letter.lost_value == LostValue(3_000_000, "sha256:ab", b'{"te')
    assert letter.headers == [("origin", b"crm")]


def test_headers_of_a_sender_make_no_letter_without_value() -> None:
    headers = [("dlq.size", b"7"), ("dlq.digest", b"mine")]
    with_value = decode_dead_letter(consumed(dead_letter_record(ORIGIN, b"s1", b"{}", headers), 0, 0))
    assert (with_value.lost_value, with_value.headers) == (None, headers)
    without = decode_dead_letter(consumed(dead_letter_record(ORIGIN, b"s1", None, headers), 0, 0))
    assert (without.lost_value, without.headers) == (None, headers)


class Small(Kept):
    """A dead letter topic that takes no values."""

    async def publish(self, record: Record) -> Position:
        if record.value:
            raise RecordTooLarge("over the limit")
        return await super().publish(record)


def test_what_a_worker_writes_in_place_of_a_value_is_read_back() -> None:
    publisher, value = Small(), b'{"text": "' + b"x" * 500 + b'"}'
    record = consumed(Record(ORIGIN.topic, b"s1", value, headers=[("dlq.size", b"9")]), 3, 17)
    taken = take(record, Assignment(Partition(ORIGIN.topic, 3), 1, Fence("partition", 1), 0, ORIGIN.topic), 0.0)
    failed_at = "2026-11-24T08:30:00.250Z"
    asyncio.run(
        DeadLetters(publisher, "dlq").write(taken, reason="lock_lost", error="?", attempts=1, failed_at=failed_at)
    )
    letter = decode_dead_letter(consumed(publisher.records[0], 0, 0))
    assert letter.lost_value == LostValue(len(value), sha256(value).hexdigest(), value[:FIRST_BYTES])
    assert (letter.key, letter.headers, letter.reason) == (b"s1", [], "lock_lost")


@pytest.mark.parametrize(
    ("told", "place"), [(b"3:17", Place(3, 17)), (b"x", None), (b"\xff", None), (b"1:\xc2\xb2", None)]
)
def test_a_letter_that_failed_again_names_the_one_before(told: bytes, place: Place | None) -> None:
    letter = dead_letter(ORIGIN, b"s1", b"{}", [("dlq.redriven", told)])
    assert letter.redrive_of == place
    assert dead_letter(ORIGIN, b"s1", b"{}", []).redrive_of is None
