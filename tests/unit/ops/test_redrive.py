"""What a redrive plans, in which order it publishes, and what a record is then."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.dead_letters import DeadLetter, LostValue, Place, Selection, decode_dead_letter
from ops.errors import OpsError
from ops.letter_fates import Fates
from ops.redrive import NEVER_A_TURN, InOrder, Plan, Redrive, Report, plan_redrive, redriven_record, with_identity
from schemas.identity import derived_inbound_id
from schemas.inbound import decode_inbound
from schemas.partition import home_partition
from schemas.publishing import BrokerUnavailable, Position, Record, RecordTooLarge
from schemas.replies import TurnCompleted, TurnFailed
from schemas.sealed import is_sealed
from store.sealing import SealingPublisher
from store.seals import NO_KEYS
from tests.contract.keys import System
from tests.unit.ops.letters import FAILED_AT, TOPICS, Kept, consumed, dead_letter
from tests.unit.workers.fakes import FakeRecord, Worker, home
from workers.errors import TransientError

ALL = Selection()
NOW_MS = int(FAILED_AT.timestamp() * 1000)
TEXT = b'{"text": "hello"}'
OTHER = "crm.tickets"
PARTITIONS = {TOPICS.inbound: 12, OTHER: 4}


async def each(letters: Sequence[DeadLetter]) -> AsyncIterator[DeadLetter]:
    for letter in letters:
        yield letter


def plan(letters: Sequence[DeadLetter], selection: Selection = ALL, limit: int | None = None) -> Plan:
    return asyncio.run(plan_redrive(each(letters), selection, PARTITIONS, limit, nothing_known))


async def nothing_known(fates: Fates) -> None:
    """No topic has evidence of any letter."""


def redrive(letters: Sequence[DeadLetter], publisher: Kept) -> Report:
    report, planned = Report(), plan(letters)

    async def run() -> None:
        async for _ in Redrive(publisher, NO_KEYS, TOPICS.inbound, PARTITIONS).run(each(letters), planned, report):
            pass

    asyncio.run(run())
    return report


TEMPLATE = dead_letter(Position(TOPICS.inbound, 0, 0), b"s1", TEXT, [])


def letter(place: Place, session_id: str = "s1", *, origin: Position | None = None, reason: str = "x") -> DeadLetter:
    origin = origin or Position(TOPICS.inbound, 0, place.offset)
    return replace(TEMPLATE, place=place, session_id=session_id, key=session_id.encode(), origin=origin, reason=reason)


letters = st.builds(
    lambda session_id, topic, partition, offset: letter(
        Place(0, 0), session_id, origin=Position(topic, partition, offset)
    ),
    st.sampled_from(["s1", "s2"]),
    st.sampled_from([TOPICS.inbound, OTHER]),
    st.integers(0, 2),
    st.integers(0, 5),
)


@given(st.lists(letters, max_size=12), st.randoms(use_true_random=False))
def test_each_session_s_records_go_in_the_order_in_which_they_stood(failed: list[DeadLetter], random: Random) -> None:
    """O, L: whatever the order in the dead letter topic, every letter goes once, and behind those before it."""
    stored = [replace(each, place=Place(random.randrange(3), offset)) for offset, each in enumerate(failed)]
    kept = Kept()
    assert redrive(stored, kept).redriven == len(stored)
    positions = {str(each.place).encode(): (each.origin.partition, each.origin.offset) for each in stored}
    sent: dict[tuple[str, bytes | None], list[tuple[int, int]]] = defaultdict(list)
    for record in kept.records:
        sent[record.topic, record.key].append(positions.pop(dict(record.headers)["dlq.redriven"]))
    assert not positions
    assert all(order == sorted(order) for order in sent.values())


def test_what_retention_took_meanwhile_holds_up_nothing() -> None:
    stored = [letter(Place(0, offset)) for offset in range(4)]
    order = InOrder(plan(stored))
    assert [ready.place.offset for kept in stored[1:] for ready in order.take(kept)] == []
    assert [left.place.offset for left in order.rest()] == [1, 2, 3]


def test_a_plan_counts_what_goes_and_what_stays_and_why() -> None:
    stored = [
        letter(Place(0, 0), reason="lock_timeout"),
        letter(Place(0, 1), reason="bad_json"),
        letter(Place(0, 2), reason="lock_timeout", origin=Position("somebody.else", 0, 0)),
        letter(Place(0, 3), reason="lock_lost", origin=Position(OTHER, 0, 0)),
        letter(Place(0, 4), reason="bad_json"),
    ]
    whole = plan(stored)
    assert whole.groups == {("lock_timeout", TOPICS.inbound): 1, ("lock_lost", OTHER): 1}
    assert {(reason, count) for (reason, _), count in whole.skipped.items()} == {("bad_json", 2), ("lock_timeout", 1)}
    assert any("EXTRA_INBOUND_TOPICS" in why for _, why in whole.skipped)
    named = plan(stored, Selection(reasons=frozenset({"bad_json"})))
    assert named.groups == {("bad_json", TOPICS.inbound): 2}
    assert not named.skipped


@pytest.mark.parametrize("reason", ["bad_json", "unknown_type", "key_mismatch", "no_session", "invalid_field"])
def test_the_sender_s_mistakes_are_never_a_turn(reason: str) -> None:
    assert reason in NEVER_A_TURN


def test_a_limit_takes_those_that_failed_first() -> None:
    minute = timedelta(minutes=1)
    stored = [replace(letter(Place(0, offset)), failed_at=FAILED_AT - offset * minute) for offset in range(5)]
    assert [planned.place.offset for planned in plan(stored, limit=2).letters] == [4, 3]
    assert len(plan(stored, limit=9).letters) == 5


def test_a_record_goes_to_its_session_s_home_or_to_where_it_stood() -> None:
    kept = Kept()
    astray = letter(Place(0, 0), "order-7001", origin=Position(TOPICS.inbound, 5, 1))
    second = letter(Place(0, 1), "order-7001", origin=Position(OTHER, 3, 1))
    shrunk = letter(Place(0, 2), "order-7001", origin=Position(OTHER, 6, 1))
    redrive([astray, second, shrunk], kept)
    assert [(record.topic, record.partition) for record in kept.records] == [
        (TOPICS.inbound, home_partition("order-7001", 12)),
        (OTHER, 3),
        (OTHER, 2),
    ]


def test_a_redriven_record_says_so_once_and_keeps_its_other_headers() -> None:
    headers = [("origin", b"crm"), ("dlq.redriven", b"9:9"), ("origin", b"web")]
    redriven = redriven_record(dead_letter(Position(OTHER, 1, 2), b"s1", TEXT, headers, place=Place(3, 17)), TEXT, 1)
    assert redriven.headers == [("origin", b"crm"), ("origin", b"web"), ("dlq.redriven", b"3:17")]
    assert redriven.key == b"s1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(["id", "text", "mood", "}"]), json_values, max_size=4)


@given(bodies, st.sampled_from([b"", b" ", b"\r\n\t "]), st.integers(0, 11), st.integers(0, 2**40))
def test_a_body_without_an_id_gets_the_one_that_it_had(
    body: dict[str, object], space: bytes, partition: int, offset: int
) -> None:
    """D: a copy that stands elsewhere is the same message."""
    value = space + orjson.dumps(body) + space
    completed = with_identity(value, Position(OTHER, partition, offset))
    assert completed is not None
    if body.get("id") is not None:
        assert completed == value
    else:
        assert orjson.loads(completed) == {**body, "id": f"{OTHER}:{partition}:{offset}"}
        assert completed.startswith(value.rstrip()[:-1]), "all else stays byte for byte"


def test_a_redriven_copy_is_decoded_as_the_same_event() -> None:
    origin = Position(TOPICS.inbound, 3, 17)
    for value in [TEXT, b'{"text": "a", "id": null}', b'{"text": "a", "extra": ' + b"[" * 500 + b"]" * 500 + b"}"]:
        copy = with_identity(value, origin)
        assert decode_inbound(copy, b"s1", TOPICS.inbound, 7, 99) == decode_inbound(
            value, b"s1", origin.topic, origin.partition, origin.offset
        )


async def test_a_message_without_an_id_is_answered_after_its_failure_and_never_twice() -> None:
    """L, D: its failure is not remembered as an answer; its answer is, wherever the next copy stands."""
    worker = Worker()
    worker.generator.errors.extend([TransientError("busy")] * 3)
    place = home("s1")
    await worker.run(FakeRecord(place.topic, place.partition, 4, b"s1", TEXT))
    failed = decode_dead_letter(consumed(worker.publisher.of(TOPICS.dlq)[0], 0, 0))
    copy = redriven_record(failed, with_identity(failed.value, failed.origin), place.partition)
    for offset in (5, 6):
        await worker.run(FakeRecord(copy.topic, place.partition, offset, copy.key, copy.value, copy.headers))
    replies = {event.id: event for event in worker.publisher.replies}.values()
    assert [type(event) for event in replies] == [TurnFailed, TurnCompleted]
    assert {event.inbound_id for event in replies} == {f"{place.topic}:{place.partition}:4"}


@pytest.mark.parametrize("value", [None, b"", b"hello", b"[]", b'"text"', b"7", b'{"text": "\xff"}', b'{"a": 1'])
def test_what_is_no_json_object_is_left_as_it_is(value: bytes | None) -> None:
    assert with_identity(value, Position(OTHER, 0, 0)) == value


class Failing(Kept):
    """Fails for the record of one dead letter."""

    def __init__(self, place: Place, error: Exception) -> None:
        super().__init__()
        self._place, self._error = str(place).encode(), error

    async def publish(self, record: Record) -> Position:
        if dict(record.headers)["dlq.redriven"] == self._place:
            raise self._error
        return await super().publish(record)


def test_a_record_that_is_too_large_is_reported_and_the_others_go() -> None:
    stored = [letter(Place(0, offset)) for offset in range(3)]
    report = redrive(stored, Failing(Place(0, 1), RecordTooLarge("over the limit")))
    assert report.redriven == 2
    assert report.refused == {Place(0, 1): "over the limit"}


def test_without_a_broker_it_ends_and_says_how_far_it_came() -> None:
    stored = [letter(Place(0, offset)) for offset in range(3)]
    failing = Failing(Place(0, 1), BrokerUnavailable("Kafka is away."))
    with pytest.raises(OpsError, match=r"Kafka is away\. 1 records were sent back before"):
        redrive(stored, failing)
    assert len(failing.records) == 1, "the one behind does not overtake"


async def test_what_is_sealed_goes_back_as_it_is_and_what_lacks_an_id_is_sealed_with_it() -> None:
    """A session that is deleted meanwhile finds nothing of it sealed with a key of its next life."""
    system, kept = System(), Kept()
    keys = system.process()
    ours, theirs = [await keys.seal("s1", text) for text in (b'{"id": "m1", "text": "hello"}', TEXT)]
    stored = [
        replace(letter(Place(0, 0)), value=ours),
        replace(letter(Place(0, 1)), key=None, session_id="s1", value=theirs),
    ]
    readable = [replace(one, value=await keys.open(one.value or b"")) for one in stored]
    report, planned = Report(), await plan_redrive(each(readable), ALL, PARTITIONS, None, nothing_known)
    publisher = SealingPublisher(kept, keys)
    async for _ in Redrive(publisher, keys, TOPICS.inbound, PARTITIONS).run(each(stored), planned, report):
        pass
    sent = {record.key: record.value or b"" for record in kept.records}
    assert sent[b"s1"] == ours
    assert is_sealed(sent[None])
    assert orjson.loads(await keys.open(sent[None]))["id"] == derived_inbound_id(TOPICS.inbound, 0, 1)


async def test_what_was_erased_stays() -> None:
    gone = [replace(letter(Place(0, 0)), value=b"\x01" + b"x" * 80)]
    planned = await plan_redrive(each(gone), ALL, PARTITIONS, None, nothing_known)
    assert (planned.letters, dict(planned.skipped)) == ([], {("x", "erased: its session was deleted"): 1})


def redriven(of: Place, at: Place) -> DeadLetter:
    """The letter as which `of` failed again."""
    return replace(letter(at), headers=[("dlq.redriven", str(of).encode())])


async def test_only_letters_that_wait_go_and_the_others_are_counted_with_why() -> None:
    lost = LostValue(3_000_000, "d", b"{")
    stored = [
        *(letter(Place(0, offset)) for offset in range(4)),
        replace(letter(Place(0, 4)), value=None, lost_value=lost),
        redriven(Place(0, 0), Place(1, 0)),
    ]

    async def gather(fates: Fates) -> None:
        answer = {"type": "turn.completed", "inbound_id": derived_inbound_id(TOPICS.inbound, 0, 1)}
        fates.reply("s1", orjson.dumps(answer), NOW_MS)
        fates.inbound([("dlq.redriven", b"0:2")], NOW_MS)

    planned = await plan_redrive(each(stored), ALL, PARTITIONS, 1, gather)
    assert [one.place for one in planned.letters] == [Place(0, 3)], "the limit counts those that wait"
    whys = sorted(why for _, why in planned.skipped.elements())
    assert [why.split(":")[0] for why in whys] == [
        "answered",
        "failed again",
        "has no value, it was too large for the dead letter topic",
        "sent back before, and not answered yet",
    ]
    assert "publish it again from its source" in whys[2]


async def test_a_newer_letter_counts_also_where_the_selection_leaves_it_out() -> None:
    other = replace(redriven(Place(0, 0), Place(1, 0)), reason="internal_error")
    only = Selection(reasons=frozenset({"x"}))
    planned = await plan_redrive(each([letter(Place(0, 0)), other]), only, PARTITIONS, None, nothing_known)
    assert planned.letters == []
