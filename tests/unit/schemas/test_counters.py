"""Counters stay whole numbers that every JSON reader has exactly, and a session goes on whatever an old event says."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidRecord
from schemas.fold import MESSAGE_COUNT, counters_out_of_range, evolve
from schemas.inbound import MAX_COUNTER, Changes, SessionUpdate, decode_inbound
from schemas.replies import decode_reply, encode_reply
from schemas.session import SessionData
from tests.unit.schemas.events import AT, answered, updated


def decoded(**counters: object) -> SessionUpdate:
    body = {"type": "session.update", "id": "u1", "changes": {"counters": counters}}
    event = decode_inbound(orjson.dumps(body), b"s1", "t", 0, 0)
    assert isinstance(event, SessionUpdate)
    return event


def session(message_count: int = 0, **metadata: str | int | float | bool | None) -> SessionData:
    return SessionData(
        session_id="s1", epoch=1_000, seq=1, version=1, message_count=message_count, metadata=metadata, updated_at=AT
    )


@pytest.mark.parametrize("name", ["n", MESSAGE_COUNT])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_of_the_limit_comes_in_and_a_larger_one_is_refused(name: str, sign: int) -> None:
    assert decoded(**{name: sign * MAX_COUNTER}).changes.counters == {name: sign * MAX_COUNTER}
    for step in (MAX_COUNTER + 1, 2**64 - 1):
        with pytest.raises(InvalidRecord) as raised:
            decoded(**{name: sign * step} if sign * step >= -(2**63) else {name: -(2**63)})
        assert (raised.value.reason, raised.value.session_id) == ("invalid_field", "s1")
        assert str(MAX_COUNTER) in raised.value.detail


def test_one_counter_too_many_among_others_is_refused() -> None:
    with pytest.raises(InvalidRecord):
        decoded(a=1, b=MAX_COUNTER + 1, c=2)


def test_an_event_of_before_with_a_larger_step_stays_readable() -> None:
    """R: what is in the topic is folded, for a rebuild must give what is live."""
    event = updated(2, Changes(counters={"n": MAX_COUNTER + 7}))
    assert decode_reply(encode_reply(event)) == event
    assert evolve(evolve(None, answered(1)), event).metadata == {"n": MAX_COUNTER + 7}


@pytest.mark.parametrize(
    ("before", "changes", "named"),
    [
        (session(), Changes(counters={"n": MAX_COUNTER}), []),
        (session(n=1), Changes(counters={"n": MAX_COUNTER - 1}), []),
        (session(n=1), Changes(counters={"n": MAX_COUNTER}), ["n"]),
        (session(n=-1), Changes(counters={"n": -MAX_COUNTER}), ["n"]),
        (session(n=1), Changes(counters={"n": MAX_COUNTER}, metadata={"n": None}), []),
        (session(), Changes(counters={"n": MAX_COUNTER}, metadata={"n": 1}), ["n"]),
        (session(n="text"), Changes(counters={"n": MAX_COUNTER}), []),
        (session(n=True), Changes(counters={"n": MAX_COUNTER}), []),
        (session(MAX_COUNTER), Changes(counters={MESSAGE_COUNT: 1}), [MESSAGE_COUNT]),
        (session(MAX_COUNTER, n=MAX_COUNTER), Changes(counters={MESSAGE_COUNT: -1, "n": 1}), ["n"]),
        (None, Changes(counters={"n": 1, MESSAGE_COUNT: 1}), []),
        (session(MAX_COUNTER), Changes(), []),
    ],
)
def test_counters_that_would_go_beyond_the_limit_are_named(
    before: SessionData | None, changes: Changes, named: list[str]
) -> None:
    assert counters_out_of_range(before, changes) == named


@given(
    st.integers(0, MAX_COUNTER),
    st.integers(-MAX_COUNTER, MAX_COUNTER),
    st.integers(-MAX_COUNTER, MAX_COUNTER),
    st.integers(-MAX_COUNTER, MAX_COUNTER),
)
def test_what_is_not_named_stays_within_the_limit(messages: int, n: int, step: int, message_step: int) -> None:
    """U: exactly what the fold makes of it."""
    before = session(messages, n=n)
    changes = Changes(counters={"n": step, MESSAGE_COUNT: message_step})
    after = evolve(before, updated(2, changes))
    named = counters_out_of_range(before, changes)
    assert ("n" in named) == (abs(n + step) > MAX_COUNTER)
    assert (MESSAGE_COUNT in named) == (abs(messages + message_step) > MAX_COUNTER)
    assert after.metadata["n"] == n + step
    assert after.message_count == messages + message_step


@pytest.mark.parametrize("count", [MAX_COUNTER, 2**63, 2**64 - 1])
def test_a_session_that_counted_to_the_end_still_takes_turns_and_can_be_written(count: int) -> None:
    """L, R: it does not count on, for its state could not be written as JSON."""
    after = evolve(session(count), answered(2))
    assert (after.message_count, after.seq) == (count, 2)
    assert SessionData.from_json(after.to_json()) == after


def test_a_session_counts_up_to_the_limit() -> None:
    after = evolve(session(MAX_COUNTER - 1), answered(2))
    assert after.message_count == MAX_COUNTER
    assert evolve(after, answered(3)).message_count == MAX_COUNTER
