"""Which subscriber gets which reply, and what the store has for clients that come back."""

import asyncio

import orjson
import pytest

from ingress.connection import Arrival
from ingress.delivery import Delivery
from ingress.history import arrivals_after, since
from ingress.refusals import RecordRefused
from schemas.deltas import Delta, encode_delta
from schemas.errors import NewerSchema
from schemas.frames import Position
from schemas.replies import encode_reply
from store.memory import MemorySessionStore
from store.protocol import Fence
from tests.contract.sessions import session, tombstone
from tests.unit.ingress.fakes import Pipeline
from tests.unit.schemas.events import answered, deleted


class Listener:
    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.deltas: list[str] = []

    def arrived(self, arrival: Arrival) -> None:
        self.seqs.append(arrival.at[1])

    def delta(self, text: str) -> None:
        self.deltas.append(text)


def test_two_sockets_of_one_session_both_get_every_reply() -> None:
    delivery, one, two = Delivery(), Listener(), Listener()
    delivery.subscribe("s1", one)
    delivery.subscribe("s1", two)
    delivery.reply(b"s1", encode_reply(answered(1)))
    assert one.seqs == two.seqs == [1]


def test_an_old_socket_that_goes_does_not_take_the_newer_one_along() -> None:
    delivery, old, new = Delivery(), Listener(), Listener()
    delivery.subscribe("s1", old)
    delivery.subscribe("s1", new)
    delivery.unsubscribe("s1", old)
    delivery.unsubscribe("s1", old)
    delivery.reply(b"s1", encode_reply(answered(1)))
    assert (old.seqs, new.seqs) == ([], [1])
    delivery.unsubscribe("s1", new)
    assert delivery.sessions == 0


def test_nothing_of_one_session_reaches_another() -> None:
    """X"""
    delivery, listener = Delivery(), Listener()
    delivery.subscribe("s1", listener)
    for key in (b"s2", b"s", b"s10", b"", None):
        delivery.reply(key, encode_reply(answered(1)))
        delivery.delta(key, encode_delta(Delta(session_id="s2", inbound_id="m1", n=0, text="CANARY")))
    assert (listener.seqs, listener.deltas) == ([], [])


def with_fields(**fields: object) -> bytes:
    """A reply event with other fields, or others on top."""
    return orjson.dumps({**orjson.loads(encode_reply(answered(1))), **fields})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "unreadable"),
        (b"{", "unreadable"),
        (b"{}", "unreadable"),
        (b"[1, 2]", "unreadable"),
        (b'"text"', "unreadable"),
        (b"null", "unreadable"),
        (b"[" * 5_000, "unreadable"),
        (with_fields(epoch="1000"), "unreadable"),
        (with_fields(epoch=None), "unreadable"),
        (with_fields(seq=1.5), "unreadable"),
        (with_fields(seq=True), "unreadable"),
        (with_fields(inbound_id=["m1"]), "unreadable"),
        (with_fields(session_id=7), "unreadable"),
        (with_fields(type="turn.completed", reply=[]), "unreadable"),
        (with_fields(changes="none"), "unreadable"),
        (with_fields(session_id="s2"), "key_mismatch"),
    ],
)
def test_an_odd_reply_record_is_refused_and_the_next_one_delivered(value: bytes, reason: str) -> None:
    """P"""
    delivery, listener = Delivery(), Listener()
    delivery.subscribe("s1", listener)
    with pytest.raises(RecordRefused) as refusal:
        delivery.reply(b"s1", value)
    assert refusal.value.reason == reason
    delivery.reply(b"s2", value)
    delivery.reply(b"s1", None)
    delivery.reply(b"s1", encode_reply(answered(1)))
    assert listener.seqs == [1]


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"session_id": "s1", "inbound_id": "m", "n": "x", "text": 1}'])
def test_an_odd_delta_record_is_refused_and_the_next_one_delivered(value: bytes) -> None:
    """P"""
    delivery, listener = Delivery(), Listener()
    delivery.subscribe("s1", listener)
    with pytest.raises(RecordRefused):
        delivery.delta(b"s1", value)
    with pytest.raises(RecordRefused):
        delivery.delta(b"s1", encode_delta(Delta(session_id="s2", inbound_id="m1", n=0, text="CANARY")))
    delivery.delta(b"s1", None)
    delivery.delta(b"s1", encode_delta(Delta(session_id="s1", inbound_id="m1", n=0, text="piece")))
    assert len(listener.deltas) == 1


def test_an_event_of_a_newer_schema_reaches_sockets() -> None:
    delivery, listener = Delivery(), Listener()
    delivery.subscribe("s1", listener)
    delivery.reply(b"s1", with_fields(schema_version=99, mood="new"))
    assert listener.seqs == [1]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("unforeseen"), "subscriber_failed"),
        (asyncio.CancelledError(), "subscriber_failed"),
        (asyncio.InvalidStateError(), "subscriber_failed"),
        (NewerSchema("version 99"), "newer_schema"),
    ],
)
def test_a_subscriber_that_raises_costs_no_other_one(error: BaseException, reason: str) -> None:
    """P"""

    class Raising(Listener):
        def arrived(self, arrival: Arrival) -> None:
            raise error

        def delta(self, text: str) -> None:
            raise error

    delivery, listeners = Delivery(), [Listener(), Raising(), Listener(), Raising(), Listener()]
    for listener in listeners:
        delivery.subscribe("s1", listener)
    with pytest.raises(RecordRefused) as refusal:
        delivery.reply(b"s1", encode_reply(answered(1)))
    assert refusal.value.reason == reason
    with pytest.raises(RecordRefused):
        delivery.delta(b"s1", encode_delta(Delta(session_id="s1", inbound_id="m1", n=0, text="piece")))
    assert [len(listener.seqs) for listener in listeners] == [1, 0, 1, 0, 1]
    assert [len(listener.deltas) for listener in listeners] == [1, 0, 1, 0, 1]


def test_a_cache_that_can_not_forget_costs_no_subscriber() -> None:
    def fails(session_id: str) -> None:
        raise RuntimeError(session_id)

    delivery, listener = Delivery(fails), Listener()
    delivery.subscribe("s1", listener)
    with pytest.raises(RecordRefused):
        delivery.reply(b"s1", encode_reply(answered(1)))
    assert listener.seqs == [1]


def test_a_subscriber_may_leave_while_it_is_told() -> None:
    delivery = Delivery()

    class Leaving(Listener):
        def arrived(self, arrival: Arrival) -> None:
            super().arrived(arrival)
            delivery.unsubscribe("s1", self)

    leaving, staying = Leaving(), Listener()
    delivery.subscribe("s1", leaving)
    delivery.subscribe("s1", staying)
    delivery.reply(b"s1", encode_reply(answered(1)))
    delivery.reply(b"s1", encode_reply(answered(2)))
    assert (leaving.seqs, staying.seqs) == ([1], [1, 2])


async def stored(count: int, *, ends_deleted: bool = False) -> MemorySessionStore:
    store = Pipeline().store
    for seq in range(1, count + 1):
        await store.commit_turn(
            session(seq=seq),
            expected_version=seq - 1,
            event_id=str(seq),
            fence=Fence("partition", 1),
            reply=encode_reply(answered(seq)),
        )
    if ends_deleted:
        gone = tombstone(session(seq=count))
        reply = encode_reply(deleted(count + 1))
        fence = Fence("partition", 1)
        await store.commit_turn(gone, expected_version=count, event_id="gone", fence=fence, reply=reply)
    return store


def seqs(arrivals: list[Arrival]) -> list[int]:
    return [arrival.at[1] for arrival in arrivals]


async def test_a_client_that_comes_back_misses_what_followed() -> None:
    store = await stored(5)
    at, missed = await since(store, "s1", Position(epoch=1_000, seq=3))
    assert (at, seqs(missed)) == ((1_000, 5), [4, 5])


async def test_a_session_that_goes_on_while_it_is_read_stands_where_its_newest_event_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D: else the last of the events that are missed would be shown a second time when it comes from the topic."""
    store = await stored(4)
    read = store.newest_event

    async def read_before_a_turn(session_id: str) -> bytes | None:
        newest = await read(session_id)
        await store.commit_turn(
            session(seq=5),
            expected_version=4,
            event_id="5",
            fence=Fence("partition", 1),
            reply=encode_reply(answered(5)),
        )
        return newest

    monkeypatch.setattr(store, "newest_event", read_before_a_turn)
    at, missed = await since(store, "s1", Position(epoch=1_000, seq=2))
    assert (at, seqs(missed)) == ((1_000, 5), [3, 4, 5])


async def test_a_client_that_has_everything_or_says_nothing_misses_nothing() -> None:
    store = await stored(5)
    for resume in (None, Position(epoch=1_000, seq=5)):
        assert await since(store, "s1", resume) == ((1_000, 5), [])
    assert await since(store, "other", Position(epoch=1_000, seq=5)) == ((0, 0), [])


async def test_a_client_of_another_epoch_gets_all_of_this_one() -> None:
    store = await stored(3)
    at, missed = await since(store, "s1", Position(epoch=900, seq=7))
    assert (at, seqs(missed)) == ((1_000, 3), [1, 2, 3])


async def test_a_stored_event_that_cannot_be_read_is_left_out_and_the_others_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = await stored(3)
    events = list(await store.events("s1"))

    async def one_is_odd(session_id: str, after_seq: int = 0) -> list[bytes]:
        return [events[0], b"[]", events[2]]

    monkeypatch.setattr(store, "events", one_is_odd)
    assert seqs(await arrivals_after(store, "s1", 0)) == [1, 3]


async def test_of_a_deleted_session_only_the_deletion_is_left() -> None:
    """X"""
    store = await stored(3, ends_deleted=True)
    assert seqs(await arrivals_after(store, "s1", 0)) == [4]


def test_a_record_that_is_still_sealed_was_erased_and_is_passed_over() -> None:
    delivery, listener = Delivery(), Listener()
    delivery.subscribe("s1", listener)
    assert (delivery.waits_for(b"s1"), delivery.waits_for(b"s2"), delivery.waits_for(None)) == (True, False, False)
    delivery.reply(b"s1", b"\x01sealed")
    delivery.delta(b"s1", b"\x01sealed")
    delivery.reply(b"s1", encode_reply(answered(1)))
    assert (listener.seqs, listener.deltas) == ([1], [])
