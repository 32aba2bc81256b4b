"""The fold: the only code that changes a session."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SequenceGap
from schemas.fold import evolve, merge_patch, next_position
from schemas.inbound import Changes, Scalar
from schemas.replies import ReplyEvent, SessionDeleted, decode_reply, encode_reply
from schemas.session import RECENT_IDS, SessionData
from tests.unit.schemas.events import AT, answered, conversations, deleted, failed, scalars, source, updated


def fold(events: list[ReplyEvent], session: SessionData | None = None) -> SessionData:
    for event in events:
        session = evolve(session, event)
    assert session is not None
    return session


def test_the_first_event_makes_the_session() -> None:
    session = evolve(None, answered(1, user_id="ann"))
    assert session == SessionData(
        session_id="s1",
        epoch=1_000,
        seq=1,
        version=1,
        user_id="ann",
        message_count=1,
        request_id="m1",
        created_at=AT,
        updated_at=AT,
        last_activity=AT,
        applied={"support.inbound.v1:3": 1},
        recent_ids=("m1",),
    )


def test_a_first_event_that_is_not_number_one_shows_a_gap() -> None:
    with pytest.raises(SequenceGap, match="seq 2, not 1"):
        evolve(None, answered(2))


def test_a_missing_event_shows_a_gap() -> None:
    """U: nothing is folded over a hole."""
    with pytest.raises(SequenceGap, match="seq 3 does not follow"):
        fold([answered(1), answered(3)])


def test_an_event_in_the_middle_of_a_later_epoch_shows_a_gap() -> None:
    with pytest.raises(SequenceGap):
        fold([answered(1), answered(2, epoch=2_000)])


def test_an_event_that_comes_again_changes_nothing_and_the_first_per_seq_wins() -> None:
    """D: a republished reply, or another content under the same seq, has no second effect."""
    session = fold([answered(1), answered(2)])
    assert evolve(session, answered(1)) is session
    assert evolve(session, answered(2)) is session
    assert evolve(session, answered(2, inbound_id="other", user_id="mallory")) is session


def test_the_first_event_of_a_later_epoch_starts_from_nothing() -> None:
    session = fold([answered(1, user_id="ann"), answered(1, epoch=2_000, inbound_id="n1", version=2)])
    assert (session.epoch, session.seq, session.version, session.message_count) == (2_000, 1, 2, 1)
    assert session.user_id is None
    assert session.recent_ids == ("n1",)


def test_an_event_of_an_earlier_epoch_is_ignored() -> None:
    session = fold([answered(1, epoch=2_000)])
    assert evolve(session, answered(1, epoch=1_000)) is session
    assert evolve(session, answered(9, epoch=1_000)) is session


def test_a_deletion_leaves_a_tombstone_that_remembers_only_what_was_applied() -> None:
    tombstone = fold([answered(1, user_id="ann"), updated(2, Changes(metadata={"canary": "x"})), deleted(3)])
    assert tombstone.deleted
    assert tombstone.applied == {"support.inbound.v1:3": 3}
    assert (tombstone.epoch, tombstone.seq, tombstone.version) == (1_000, 3, 3)
    assert (tombstone.user_id, tombstone.metadata, tombstone.message_count) == (None, {}, 0)


def test_a_deleted_session_is_reborn_in_a_later_epoch_and_its_version_goes_on() -> None:
    tombstone = fold([answered(1), deleted(2)])
    epoch, seq, version = next_position(tombstone, now_ms=5)
    assert (epoch, seq, version) == (1_001, 1, 3)
    reborn = evolve(tombstone, answered(1, epoch=epoch, version=version, inbound_id="n1"))
    assert not reborn.deleted
    assert (reborn.message_count, reborn.version) == (1, 3)


def test_the_next_position_goes_on_from_the_session() -> None:
    assert next_position(None, now_ms=77) == (77, 1, 1)
    assert next_position(fold([answered(1)]), now_ms=77) == (1_000, 2, 2)


def test_a_failure_that_may_be_redriven_is_applied_but_not_remembered_as_answered() -> None:
    """L: the record that comes again from the dead letter topic is answered."""
    session = fold([answered(1), failed(2, inbound_id="m2")])
    assert session.has_applied("support.inbound.v1:3", 2, "m2")
    assert not session.has_applied("support.inbound.v1:3", 3, "m2")
    assert session.request_id == "m2"
    assert session.message_count == 1


def test_a_failure_that_is_final_is_remembered() -> None:
    session = fold([failed(1, inbound_id="m1", redrivable=False, code="cancelled")])
    assert session.has_applied("support.inbound.v1:3", 99, "m1")


def test_applied_is_the_highest_offset_per_partition() -> None:
    session = fold(
        [
            answered(1, at=source(10)),
            answered(2, at=source(5)),
            answered(3, at=source(4, partition=4)),
            answered(4, at=source(4, topic="other")),
        ]
    )
    assert session.applied == {"support.inbound.v1:3": 10, "support.inbound.v1:4": 4, "other:3": 4}


def test_only_the_newest_ids_are_remembered() -> None:
    session = fold([answered(seq) for seq in range(1, RECENT_IDS + 11)])
    assert session.recent_ids == tuple(f"m{seq}" for seq in range(11, RECENT_IDS + 11))
    assert session.message_count == RECENT_IDS + 10


def test_what_an_update_does_not_name_stays() -> None:
    session = fold([updated(1, Changes(user_id="ann", escalated=True)), updated(2, Changes(thread_id="t"))])
    assert (session.user_id, session.escalated, session.thread_id) == ("ann", True, "t")
    assert not evolve(session, updated(3, Changes(escalated=False))).escalated


def test_metadata_is_merged_and_a_null_removes_its_key() -> None:
    session = fold([updated(1, Changes(metadata={"b": 1, "a": 2})), updated(2, Changes(metadata={"b": None, "c": 3}))])
    assert session.metadata == {"a": 2, "c": 3}


@given(st.dictionaries(st.text(max_size=3), scalars), st.dictionaries(st.text(max_size=3), scalars))
def test_a_merge_is_idempotent_sorted_and_holds_no_null(metadata: dict[str, Scalar], patch: dict[str, Scalar]) -> None:
    merged = merge_patch(metadata, patch)
    assert merge_patch(merged, patch) == merged
    assert list(merged) == sorted(merged)
    assert None not in merged.values()


@given(conversations())
def test_a_rebuild_from_the_topic_equals_the_live_session_byte_for_byte(events: list[ReplyEvent]) -> None:
    """R: the worker folds what it made, a replay folds what it reads."""
    rebuilt = fold([decode_reply(encode_reply(event)) for event in events])
    assert rebuilt.to_json() == fold(events).to_json()


@given(conversations())
def test_the_stored_form_of_a_session_is_canonical(events: list[ReplyEvent]) -> None:
    """R: what is read from the store goes on exactly as what was written."""
    live = fold(events[:1])
    for event in events[1:]:
        live = evolve(SessionData.from_json(live.to_json()), event)
    assert live == fold(events)
    assert SessionData.from_json(live.to_json()).to_json() == live.to_json()


@given(conversations(), st.data())
def test_a_rebuild_does_not_mind_duplicates(events: list[ReplyEvent], data: st.DataObject) -> None:
    """D, R: republished events, anywhere after the first, change nothing."""
    with_duplicates: list[ReplyEvent] = []
    for i, event in enumerate(events):
        with_duplicates.append(event)
        with_duplicates += [events[j] for j in data.draw(st.lists(st.integers(0, i), max_size=2))]
    assert fold(with_duplicates) == fold(events)


def test_a_stored_session_of_a_newer_version_is_read_without_its_new_fields() -> None:
    session = fold([answered(1)])
    assert SessionData.from_dict({**session.to_dict(), "mood": "sunny"}) == session


def test_the_state_does_not_grow_with_the_conversation() -> None:
    """The cost of a turn is bounded: after the bounds are reached, the state keeps its size."""
    session = fold([answered(seq, inbound_id=f"m{seq:06}") for seq in range(1, RECENT_IDS + 1)])
    size = len(session.to_json())
    session = fold([answered(seq, inbound_id=f"m{seq:06}") for seq in range(RECENT_IDS + 1, 2_000)], session)
    assert len(session.to_json()) <= size + 20


@given(conversations())
def test_a_tombstone_follows_from_its_deletion_alone(events: list[ReplyEvent]) -> None:
    """R: when all before it can't be read any more."""
    session: SessionData | None = None
    told: list[ReplyEvent] = []
    for event in events:
        session = evolve(session, event)
        told.append(replace(event, applied=session.applied) if isinstance(event, SessionDeleted) else event)
    assert fold(told) == session
    deletions = [place for place, event in enumerate(told) if isinstance(event, SessionDeleted)]
    for place in deletions:
        assert fold(told[place:]) == session


def test_a_deletion_that_the_session_is_past_changes_nothing() -> None:
    old = replace(deleted(2), applied={})
    session = fold([answered(1), deleted(2), answered(1, epoch=2_000, version=3)])
    assert evolve(session, old) is session


def test_a_deletion_of_before_there_was_that_still_needs_what_was_before_it() -> None:
    with pytest.raises(SequenceGap):
        evolve(None, deleted(2))
