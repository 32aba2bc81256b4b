"""The checker finds each breach, names where it is, and is silent about what is allowed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiokafka import ConsumerRecord

from ops.verification.checker import Breach, Checker, Findings
from schemas.fold import evolve
from schemas.identity import derived_inbound_id, turn_id
from schemas.publishing import Position
from schemas.replies import (
    CustomerMessage,
    Reply,
    ReplyEvent,
    SessionDeleted,
    Source,
    TurnCompleted,
    TurnFailed,
    encode_reply,
)
from schemas.session import SessionData
from schemas.topics import TopicNames
from tests.unit.ops.letters import dead_letter
from workers.records import Partition

TOPICS = TopicNames()
AT = "2026-11-24T08:30:00.250Z"


def record(topic: str, partition: int, offset: int, key: str | None, value: bytes) -> ConsumerRecord:
    name = None if key is None else key.encode()
    return ConsumerRecord(topic, partition, offset, 0, 0, name, value, None, 0, 0, ())


def message(offset: int, id: str, session: str = "a", partition: int = 0, **more: Any) -> ConsumerRecord:
    return record(TOPICS.inbound, partition, offset, session, orjson.dumps({"id": id, "text": "Hello?", **more}))


def completed(seq: int, id: str, offset: int, session: str = "a", epoch: int = 1, text: str = "Yes.") -> TurnCompleted:
    return TurnCompleted(
        id=turn_id(session, id),
        session_id=session,
        epoch=epoch,
        seq=seq,
        version=seq,
        inbound_id=id,
        source=Source(topic=TOPICS.inbound, partition=0, offset=offset),
        actor="agent",
        completed_at=AT,
        message=CustomerMessage(id=id, text="Hello?"),
        reply=Reply(text=text, generator="test"),
    )


def failed(seq: int, id: str, offset: int, *, redrivable: bool = True) -> TurnFailed:
    return TurnFailed(
        id=turn_id("a", f"{id}\n{offset}"),
        session_id="a",
        epoch=1,
        seq=seq,
        version=seq,
        inbound_id=id,
        source=Source(topic=TOPICS.inbound, partition=0, offset=offset),
        actor="system",
        completed_at=AT,
        code="internal_error",
        error="no",
        redrivable=redrivable,
    )


def fold(events: Sequence[ReplyEvent]) -> SessionData:
    session = None
    for event in events:
        session = evolve(session, event)
    assert session is not None
    return session


class Case:
    """Traffic of one partition. What isn't said is as it should be: all committed, the store as the fold has it."""

    def __init__(
        self,
        inbound: Sequence[ConsumerRecord],
        replies: Sequence[ReplyEvent],
        *,
        committed: int | None = None,
        letters: Sequence[int] = (),
        live: SessionData | None = None,
        kept: Sequence[bytes] | None = None,
        reply_partitions: Sequence[int] = (),
        begin: int = 0,
        complete: bool = False,
        forgotten: bool = False,
        expired: bool = False,
    ) -> None:
        checker = Checker({Partition(TOPICS.inbound, 0): len(inbound) if committed is None else committed})
        for each in inbound:
            checker.inbound(each)
        checker.replies_begin(0, begin)
        for offset, event in enumerate(replies):
            partition = reply_partitions[offset] if reply_partitions else 0
            checker.reply(record(TOPICS.replies, partition, offset, event.session_id, encode_reply(event)))
        for offset in letters:
            checker.dead_letter(dead_letter(Position(TOPICS.inbound, 0, offset), b"a", b"{}", []))
        for session_id in list(checker.sessions()):
            stored = live or checker.folded(session_id)
            events = [encode_reply(event) for event in replies if event.session_id == session_id]
            checker.stored(session_id, None if forgotten else stored, events if kept is None else kept, expired=expired)
        self.findings: Findings = checker.finish(complete=complete)

    @property
    def broken(self) -> str:
        return "".join(sorted(self.findings.counts))

    def first(self, invariant: str) -> Breach:
        return self.findings.breaches[invariant][0]  # type: ignore[index]


def test_traffic_in_which_all_went_well() -> None:
    case = Case([message(0, "m1"), message(1, "m2")], [completed(1, "m1", 0), completed(2, "m2", 1)])
    assert case.findings.ok
    assert case.findings.records["answered"] == 2
    assert case.findings.records["sessions"] == 1


def test_a_message_without_an_outcome_is_lost_when_its_offset_is_committed() -> None:
    case = Case([message(0, "m1"), message(1, "m2")], [completed(1, "m1", 0)])
    assert case.broken == "CL"
    assert case.first("L") == Breach("L", "no outcome", "a", "m2", "support.inbound.v1:0:1")
    assert case.first("C").inbound_id == "m2"


def test_what_is_not_committed_is_open_until_all_is_said_to_be_done() -> None:
    traffic = [message(0, "m1"), message(1, "m2")], [completed(1, "m1", 0)]
    still = Case(*traffic, committed=1)
    assert still.findings.ok
    assert still.findings.records["open"] == 1
    assert Case(*traffic, committed=1, complete=True).broken == "L"


def test_a_record_that_nobody_can_read_ends_in_the_dead_letter_topic() -> None:
    bad = [record(TOPICS.inbound, 0, 0, "a", b"{")]
    assert Case(bad, [], letters=[0]).findings.ok
    lost = Case(bad, [])
    assert lost.broken == "CL"
    assert lost.first("L").inbound_id == derived_inbound_id(TOPICS.inbound, 0, 0)


def test_a_failed_turn_needs_its_dead_letter() -> None:
    traffic = [message(0, "m1")], [failed(1, "m1", 0)]
    assert Case(*traffic, letters=[0]).findings.ok
    lost = Case(*traffic)
    assert lost.broken == "CL"
    assert "not in the dead letter topic" in lost.first("L").what


def test_a_redriven_message_may_be_answered_after_it_failed() -> None:
    again = [message(0, "m1"), message(1, "m1")]
    assert Case(again, [failed(1, "m1", 0), completed(2, "m1", 1)], letters=[0]).findings.ok


def test_a_cancelled_message_has_its_outcome() -> None:
    assert Case([message(0, "m1")], [failed(1, "m1", 0, redrivable=False)]).findings.ok


def test_cancels_and_feedback_need_no_outcome() -> None:
    events = [
        record(TOPICS.inbound, 0, 0, "a", b'{"type": "cancel", "id": "c", "target": "m1"}'),
        record(TOPICS.inbound, 0, 1, "a", b'{"type": "feedback", "id": "f", "seq": 9, "score": 1}'),
    ]
    assert Case(events, []).findings.ok


def test_a_duplicate_shares_its_outcome() -> None:
    case = Case([message(0, "m1"), message(1, "m1")], [completed(1, "m1", 0)])
    assert case.findings.ok
    assert case.findings.records["duplicates"] == 1


def test_an_answer_published_again_with_the_same_bytes_is_allowed() -> None:
    case = Case([message(0, "m1")], [completed(1, "m1", 0)] * 2)
    assert case.findings.ok
    assert case.findings.records["published_again"] == 1


def test_an_answer_published_with_other_contents() -> None:
    case = Case([message(0, "m1")], [completed(1, "m1", 0), completed(1, "m1", 0, text="No.")], kept=())
    assert case.broken == "D"


def test_a_message_that_was_answered_twice() -> None:
    case = Case([message(0, "m1"), message(1, "m1")], [completed(1, "m1", 0), completed(2, "m1", 1)])
    assert case.broken == "D"
    assert case.first("D").what == "answered twice, at seq 1 and at seq 2"


def test_two_events_in_one_place() -> None:
    case = Case(
        [message(0, "m1"), message(1, "m2")], [completed(1, "m1", 0), completed(1, "m2", 1)], kept=(), committed=1
    )
    assert case.broken == "O"


def test_an_event_behind_its_successor() -> None:
    case = Case([message(0, "m1"), message(1, "m2")], [completed(2, "m2", 1), completed(1, "m1", 0)])
    assert case.broken == "O"
    assert case.first("O").inbound_id == "m1"


def test_a_place_left_out() -> None:
    case = Case([message(0, "m1"), message(1, "m3")], [completed(1, "m1", 0), completed(3, "m3", 1)])
    assert case.broken == "O"
    assert case.first("O").what == "seq 3 follows seq 1 in the reply topic"


def test_turns_against_the_order_of_their_records() -> None:
    case = Case([message(0, "m1"), message(1, "m2")], [completed(1, "m2", 1), completed(2, "m1", 0)])
    assert case.broken == "O"


def test_a_session_whose_events_lie_in_two_partitions() -> None:
    """Partitions were added: the later ones stand elsewhere, and a reader may see them first."""
    inbound = [message(0, "m1"), message(1, "m2"), message(2, "m3")]
    events = [completed(1, "m1", 0), completed(3, "m3", 2), completed(2, "m2", 1)]
    assert Case(inbound, events, reply_partitions=[0, 1, 0]).findings.ok


def test_what_retention_took_is_not_judged() -> None:
    case = Case([message(1, "m2")], [completed(2, "m2", 1)], begin=7, committed=2)
    assert case.findings.ok
    assert case.findings.not_checked.total() == 1


def test_an_update_that_is_missing_in_the_store() -> None:
    events = [completed(1, "m1", 0), completed(2, "m2", 1)]
    case = Case([message(0, "m1"), message(1, "m2")], events, live=fold(events[:1]))
    assert case.broken == "RU"
    assert "message_count 1 and 2" in case.first("U").what or "seq 1 and 2" in case.first("U").what


def test_a_session_that_the_store_has_not() -> None:
    traffic = [message(0, "m1")], [completed(1, "m1", 0)]
    assert Case(*traffic, forgotten=True).broken == "U"
    assert Case(*traffic, forgotten=True, expired=True).findings.ok


@pytest.mark.parametrize("fields", [{"escalated": True}, {"metadata": {"tier": "gold"}}, {"recent_ids": ()}])
def test_a_field_that_the_topics_do_not_explain(fields: dict[str, Any]) -> None:
    events = [completed(1, "m1", 0)]
    case = Case([message(0, "m1")], events, live=replace(fold(events), **fields))
    assert case.broken == "RU"
    assert next(iter(fields)) in case.first("U").what


def test_an_event_that_only_the_store_has() -> None:
    events = [completed(1, "m1", 0)]
    unpublished = completed(1, "m0", 0, epoch=0)
    case = Case([message(0, "m1")], events, kept=[encode_reply(unpublished)])
    assert case.broken == "R"


def test_what_came_after_the_session_was_read_is_not_compared() -> None:
    events = [completed(1, "m1", 0)]
    case = Case([message(0, "m1")], events, kept=[encode_reply(event) for event in [*events, completed(2, "m2", 1)]])
    assert case.findings.ok


def test_a_record_that_is_no_event() -> None:
    checker = Checker({})
    checker.reply(record(TOPICS.replies, 0, 0, "a", b"{}"))
    assert checker.finish(complete=False).counts["R"] == 1


def test_only_the_first_breaches_are_kept_and_all_are_counted() -> None:
    case = Case([message(offset, f"m{offset}") for offset in range(100)], [])
    assert case.findings.counts["L"] == 100
    assert len(case.findings.breaches["L"]) == 20


def test_what_was_erased_is_not_missed_and_the_rest_of_the_session_is_checked() -> None:
    """Of a deleted session the deletion alone can be read; its tombstone is what the store must have."""
    events = [completed(1, "m1", 0), completed(2, "m2", 1)]
    tombstone = SessionDeleted(
        id="d",
        session_id="a",
        epoch=1,
        seq=3,
        version=3,
        inbound_id="d",
        source=Source(topic=TOPICS.inbound, partition=0, offset=2),
        actor="system",
        completed_at=AT,
        applied={f"{TOPICS.inbound}:0": 2},
        keys=["00" * 16],
    )
    erased = b"\x01" + b"x" * 80
    deletion = record(TOPICS.inbound, 0, 2, "a", orjson.dumps({"id": "d", "type": "session.delete"}))
    live = fold([*events, tombstone])

    def checked(state: SessionData) -> Checker:
        checker = Checker({Partition(TOPICS.inbound, 0): 3})
        for each in (record(TOPICS.inbound, 0, 0, "a", erased), message(1, "m2"), deletion):
            checker.inbound(each)
        for offset, value in enumerate([erased, erased, encode_reply(tombstone)]):
            checker.reply(record(TOPICS.replies, 0, offset, "a", value))
        for session_id in list(checker.sessions()):
            checker.stored(session_id, state, [encode_reply(tombstone)], expired=False)
        return checker

    findings = checked(live).finish(complete=True)
    assert findings.ok, findings.breaches
    assert (findings.records["erased"], findings.records["sessions"]) == (3, 1)
    assert set(checked(replace(live, seq=4)).finish(complete=True).counts) == {"U", "R"}


def test_a_session_of_which_all_was_erased_is_said_not_to_be_checked() -> None:
    checker = Checker({Partition(TOPICS.inbound, 0): 1})
    checker.inbound(message(0, "m1"))
    checker.reply(record(TOPICS.replies, 0, 0, "a", b"\x01" + b"x" * 80))
    assert list(checker.sessions()) == []
    findings = checker.finish(complete=True)
    assert findings.ok
    assert findings.not_checked["was erased"] == 1
