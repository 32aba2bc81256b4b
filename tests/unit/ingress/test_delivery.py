"""Who gets which reply, and what the store has for those who come back."""

from ingress.connection import Arrival
from ingress.delivery import Delivery
from ingress.history import arrivals_after, since
from schemas.deltas import Delta, encode_delta
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


def test_a_record_that_nobody_can_read_is_passed_over() -> None:
    """P"""
    delivery, listener = Delivery(), Listener()
    delivery.subscribe("s1", listener)
    for value in (b"", b"{", b"{}", None):
        delivery.reply(b"s1", value)
        delivery.delta(b"s1", value)
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


async def test_a_client_that_has_everything_or_says_nothing_misses_nothing() -> None:
    store = await stored(5)
    for resume in (None, Position(epoch=1_000, seq=5)):
        assert await since(store, "s1", resume) == ((1_000, 5), [])
    assert await since(store, "other", Position(epoch=1_000, seq=5)) == ((0, 0), [])


async def test_a_client_of_another_epoch_gets_all_of_this_one() -> None:
    store = await stored(3)
    at, missed = await since(store, "s1", Position(epoch=900, seq=7))
    assert (at, seqs(missed)) == ((1_000, 3), [1, 2, 3])


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
