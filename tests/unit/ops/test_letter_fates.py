"""What became of a dead letter follows from what the topics hold, in whichever order it is read."""

from dataclasses import replace
from datetime import datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.dead_letters import DeadLetter, LostValue, Place
from ops.letter_fates import (
    EVIDENCE_SLACK,
    Fate,
    Fates,
    State,
    Successors,
    asked_of,
    inbound_id_of,
    reaches_back_to,
)
from schemas.publishing import Position
from tests.unit.ops.letters import FAILED_AT, TOPICS, dead_letter

ORIGIN = Position(TOPICS.inbound, 3, 17)
FIRST, NEWER = Place(0, 5), Place(7, 1)
LETTER = dead_letter(ORIGIN, b"s1", b'{"id": "m1", "text": "hello"}', [], place=FIRST)
AGAIN = replace(LETTER, place=NEWER, headers=[("dlq.redriven", b"0:5")])
SEALED = b"\x01" + b"x" * 80


def ms(when: datetime) -> int:
    return int(when.timestamp() * 1000)


def fates(*letters: DeadLetter, asked: DeadLetter = LETTER) -> Fates:
    successors = Successors()
    for letter in letters:
        successors.add(letter)
    return Fates([asked_of(asked)], successors)


def event(kind: str = "turn.completed", inbound_id: str = "m1", **fields: object) -> bytes:
    return orjson.dumps({"type": kind, "inbound_id": inbound_id, **fields})


def replied(value: bytes, session_id: str = "s1", *, asked: DeadLetter = LETTER, after_s: float = 1.0) -> State:
    found = fates(asked, asked=asked)
    found.reply(session_id, value, ms(asked.failed_at + timedelta(seconds=after_s)))
    return found.of(asked.place).state


def test_a_letter_of_which_nothing_is_heard_waits() -> None:
    assert fates(LETTER).of(FIRST) == Fate(State.WAITING)


def test_a_redriven_record_names_its_letter() -> None:
    found = fates(LETTER)
    found.inbound([("dlq.redriven", b"0:6")], ms(FAILED_AT))
    found.inbound([("dlq.redriven", b"x"), ("origin", b"crm")], ms(FAILED_AT))
    assert found.of(FIRST).state is State.WAITING
    found.inbound([("dlq.redriven", b"0:5")], ms(FAILED_AT))
    assert found.of(FIRST).state is State.REDRIVEN
    found.reply("s1", event(), ms(FAILED_AT))
    assert found.of(FIRST).state is State.ANSWERED


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (event(), State.ANSWERED),
        (event("session.updated"), State.ANSWERED),
        (event("session.deleted"), State.ANSWERED),
        (event("turn.failed", redrivable=False, code="cancelled"), State.ANSWERED),
        (event("turn.failed", redrivable=True), State.WAITING),
        (event("turn.failed"), State.WAITING),
        (event(inbound_id="m2"), State.WAITING),
        (b"no JSON", State.WAITING),
        (b"[]", State.WAITING),
        (b"", State.WAITING),
    ],
)
def test_only_a_reply_that_ends_the_matter_is_an_answer(value: bytes, state: State) -> None:
    assert replied(value) is state


def test_another_session_s_answer_to_the_same_id_is_not_its_own() -> None:
    """X."""
    assert replied(event(), "s2") is State.WAITING


def test_a_letter_without_an_id_is_answered_under_the_place_of_its_record() -> None:
    bare = replace(LETTER, value=b'{"text": "hello"}')
    assert replied(event(inbound_id=f"{TOPICS.inbound}:3:17"), asked=bare) is State.ANSWERED
    for value in (None, b"", b"no JSON", b"[]", b'{"id": 7}', b'{"id": null}'):
        assert inbound_id_of(value, ORIGIN) == f"{TOPICS.inbound}:3:17"


def test_a_letter_that_failed_again_names_its_newer_letter_also_when_that_was_answered() -> None:
    found = fates(AGAIN, LETTER)
    found.inbound([("dlq.redriven", b"0:5")], ms(FAILED_AT))
    found.reply("s1", event(), ms(FAILED_AT))
    assert found.of(FIRST) == Fate(State.FAILED_AGAIN, NEWER)
    assert str(found.of(FIRST)) == "failed again: 7:1"
    newest = replace(AGAIN, place=Place(2, 2), failed_at=FAILED_AT + timedelta(minutes=1))
    assert fates(newest, AGAIN).of(FIRST).newer == newest.place


def test_what_names_a_letter_of_an_earlier_topic_says_nothing() -> None:
    """A dead letter topic that was created again counts its places anew."""
    long_ago = FAILED_AT - EVIDENCE_SLACK - timedelta(seconds=1)
    found = fates(replace(AGAIN, failed_at=long_ago))
    found.inbound([("dlq.redriven", b"0:5")], ms(long_ago))
    assert found.of(FIRST).state is State.WAITING


def test_what_has_no_value_or_was_erased_says_so_itself() -> None:
    lost = replace(LETTER, value=None, lost_value=LostValue(9, "d", b""))
    erased = replace(LETTER, value=SEALED)
    for letter, state in ((lost, State.NO_VALUE), (erased, State.ERASED)):
        found = fates(asked=letter)
        assert found.of(FIRST).state is state
        assert found.since is None, "no topic needs to be read for it"


def test_where_the_reply_topic_does_not_reach_back_the_fate_is_unknown() -> None:
    found = fates(LETTER)
    found.replies_reach_back_to(FAILED_AT - timedelta(seconds=1))
    assert found.of(FIRST).state is State.WAITING
    found.replies_reach_back_to(FAILED_AT + timedelta(seconds=1))
    assert found.of(FIRST).state is State.UNKNOWN
    found.inbound([("dlq.redriven", b"0:5")], ms(FAILED_AT))
    assert found.of(FIRST).state is State.REDRIVEN


def test_a_reply_that_can_no_longer_be_read_may_have_been_the_answer() -> None:
    assert replied(SEALED) is State.UNKNOWN
    assert replied(SEALED, "s2") is State.WAITING
    assert replied(SEALED, after_s=-3_000.0) is State.WAITING


def test_a_topic_is_complete_from_its_retention_on() -> None:
    now, day = FAILED_AT, 24 * 3_600_000
    assert reaches_back_to([0, 0], day, [], now) is None
    assert reaches_back_to([0, 4], day, [], now) == now - timedelta(days=1)
    hour_ago, minute_ago = now - timedelta(hours=1), now - timedelta(minutes=1)
    assert reaches_back_to([4, 4], None, [hour_ago, minute_ago], now) == minute_ago
    assert reaches_back_to([4], None, [], now) == now


def test_evidence_is_looked_for_from_the_oldest_open_letter_on() -> None:
    older = replace(LETTER, place=Place(0, 1), failed_at=FAILED_AT - timedelta(days=1))
    gone = replace(LETTER, place=Place(0, 2), failed_at=FAILED_AT - timedelta(days=2), value=SEALED)
    found = Fates([asked_of(each) for each in (LETTER, gone, older)], Successors())
    assert found.since == older.failed_at - EVIDENCE_SLACK
    assert found.sessions == {b"s1"}


@given(st.permutations(["answered", "redriven", "newer", "failure"]), st.sets(st.sampled_from("arnf")))
def test_the_order_of_evidence_does_not_matter(order: list[str], kept: set[str]) -> None:
    """D: once it was sent or answered, a letter never waits again."""
    evidence = [each for each in order if each[0] in kept]
    found = fates(*([AGAIN, LETTER] if "newer" in evidence else [LETTER]))
    for each in evidence:
        if each == "answered":
            found.reply("s1", event(), ms(FAILED_AT))
        elif each == "redriven":
            found.inbound([("dlq.redriven", b"0:5")], ms(FAILED_AT))
        elif each == "failure":
            found.reply("s1", event("turn.failed"), ms(FAILED_AT))
    expected = State.WAITING
    for each, state in (("redriven", State.REDRIVEN), ("answered", State.ANSWERED), ("newer", State.FAILED_AGAIN)):
        expected = state if each in evidence else expected
    assert found.of(FIRST).state is expected
