"""Sessions for scripts (`store.direct`), on every backend: each write is an event as well, and no update is lost."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from schemas.fold import MESSAGE_COUNT, evolve
from schemas.inbound import MAX_METADATA_BYTES
from schemas.partition import home_partition
from schemas.publishing import BrokerUnavailable, Position, PublishError, Record
from schemas.replies import ReplyEvent, SessionDeleted, SessionUpdated, decode_reply
from schemas.session import SessionData
from store.direct import DirectSessions
from store.errors import Conflict, LockingDisabled, LockTimeout, Unpublished
from store.memory import MemorySessionStore
from store.protocol import SessionStore
from store.seals import NO_KEYS
from tests.contract.backends import Backend

AT = "2026-01-02T03:04:05.678Z"
PARTITIONS = 12
TOPIC = "support.replies.v1"


class ReplyLog:
    """The reply topic: keeps what it acknowledged, in order, and refuses as often as `refusals` says."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.refusals = 0
        self.meanwhile: deque[Callable[[], Awaitable[object]]] = deque()
        """What others do while the next records are on their way; each once."""

    async def publish(self, record: Record) -> Position:
        await asyncio.sleep(0)
        if self.meanwhile:
            await self.meanwhile.popleft()()
        if self.refusals:
            self.refusals -= 1
            raise BrokerUnavailable("no acknowledgement in time")
        self.records.append(record)
        return Position(record.topic, record.partition or 0, len(self.records) - 1)

    @property
    def facts(self) -> list[ReplyEvent]:
        """Every event in the order of the log, without its repetitions: those are the same bytes."""
        return [decode_reply(value) for value in dict.fromkeys(record.value or b"" for record in self.records)]

    @property
    def seqs(self) -> list[int]:
        return [fact.seq for fact in self.facts]

    def folded(self, session_id: str) -> SessionData:
        """The session, rebuilt from the log alone, repetitions and all. Raises SequenceGap where a seq is missing."""
        session = None
        for record in self.records:
            event = decode_reply(record.value or b"")
            if event.session_id == session_id:
                session = evolve(session, event)
        assert session is not None
        return session


@pytest.fixture
def log() -> ReplyLog:
    return ReplyLog()


def direct(store: SessionStore, log: ReplyLog) -> DirectSessions:
    ms = count(1_000)
    return DirectSessions(
        store, log, reply_topic=TOPIC, partitions=PARTITIONS, now=lambda: (next(ms), AT), seals=NO_KEYS
    )


@pytest.fixture
async def sessions(store: SessionStore, log: ReplyLog) -> DirectSessions:
    # redis-py's cluster client drops connections in use while it finds its nodes: once, before anybody uses any.
    await store.ping()
    return direct(store, log)


async def assert_rebuilt(store: SessionStore, log: ReplyLog, session_id: str = "s1") -> None:
    """R"""
    stored = await store.load(session_id)
    assert stored is not None
    assert log.folded(session_id).to_json() == stored.session.to_json()


def made(session_id: str = "s1", **fields: Any) -> SessionData:
    """A session as a script gives it: the store counts epoch, seq and version itself."""
    return SessionData(session_id=session_id, epoch=0, seq=0, version=0, **fields)


async def test_each_write_is_one_event_and_their_fold_is_the_live_session(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """R: byte for byte, after every single write."""
    writes: list[tuple[Callable[[], Awaitable[object]], type[ReplyEvent]]] = [
        (lambda: sessions.set(made(user_id="ann", metadata={"plan": "ünïcode ✓", "n": 1.5})), SessionUpdated),
        (lambda: sessions.update("s1", {"metadata": {"plan": None, "city": "Oslo"}}), SessionUpdated),
        (lambda: sessions.increment_counter("s1", MESSAGE_COUNT, 3), SessionUpdated),
        (lambda: sessions.increment_counter("s1", "visits"), SessionUpdated),
        (lambda: sessions.update("s1", {"escalated": True, "thread_id": "t1"}, atomic=False), SessionUpdated),
        (lambda: sessions.set(made(thread_id="t2", message_count=1), ttl_seconds=600), SessionUpdated),
        (lambda: sessions.delete("s1"), SessionDeleted),
        (lambda: sessions.update("s1", {"user_id": "bob", "fingerprint_hash": "f"}), SessionUpdated),
    ]
    for done, (write, kind) in enumerate(writes, 1):
        await write()
        assert len(log.facts) == done
        assert isinstance(log.facts[-1], kind)
        await assert_rebuilt(store, log)
    assert [fact.version for fact in log.facts] == list(range(1, len(writes) + 1))
    assert log.seqs == [1, 2, 3, 4, 5, 6, 7, 1]


async def test_an_event_is_a_record_of_the_session_s_home_partition(sessions: DirectSessions, log: ReplyLog) -> None:
    """O: beside the events of the workers, in one order with them."""
    await sessions.update("s1", {"user_id": "ann"})
    [record], [fact] = log.records, log.facts
    assert (record.topic, record.key, record.partition) == (TOPIC, b"s1", home_partition("s1", PARTITIONS))
    assert dict(record.headers)["ce_type"] == b"supportstream.session.updated.v1"
    assert dict(record.headers)["ce_id"] == fact.id.encode()
    assert (fact.actor, fact.source, fact.completed_at) == ("system", None, AT)


async def test_what_was_written_is_read_back(sessions: DirectSessions) -> None:
    assert await sessions.get("s1") is None
    assert not await sessions.exists("s1")
    after = await sessions.set(made(user_id="ann", metadata={"b": 1, "a": "x"}, message_count=4, escalated=True))
    assert await sessions.get("s1") == after
    assert await sessions.exists("s1")
    assert (after.user_id, after.metadata, after.message_count, after.escalated) == (
        "ann",
        {"a": "x", "b": 1},
        4,
        True,
    )
    await sessions.ping()
    assert (await sessions.get_stats()).connected


async def test_a_write_that_was_not_published_is_published_by_the_next_writer_in_order(
    backend: Backend, store: SessionStore, log: ReplyLog
) -> None:
    """R"""
    first, second = direct(store, log), direct(store if backend.name == "memory" else backend.store(), log)
    await first.update("s1", {"user_id": "ann"})
    log.meanwhile.append(lambda: refuse_the_next_but_one(log))
    with pytest.raises(Unpublished):
        await first.increment_counter("s1", "visits")
    assert log.seqs == [1]
    live = await store.get("s1")
    assert live is not None
    assert live.metadata == {"visits": 1}, "it is stored all the same"
    assert await second.increment_counter("s1", "visits") == 2
    assert log.seqs == [1, 2, 3]
    await assert_rebuilt(store, log)


async def refuse_the_next_but_one(log: ReplyLog) -> None:
    """While what came before is published once more: that passes, what follows from it does not."""

    async def refuse() -> None:
        log.refusals = 1

    log.meanwhile.append(refuse)


async def test_a_first_write_that_was_not_published_is_published_by_the_next_writer(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """R"""
    log.refusals = 1
    with pytest.raises(Unpublished):
        await sessions.set(made(user_id="ann"))
    assert log.records == []
    await sessions.update("s1", {"user_id": "bob"})
    assert log.seqs == [1, 2]
    await assert_rebuilt(store, log)


async def test_a_deletion_that_was_not_published_is_published_before_a_new_epoch_begins(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """R, X"""
    await sessions.update("s1", {"user_id": "ann"})
    log.meanwhile.append(lambda: refuse_the_next_but_one(log))
    with pytest.raises(Unpublished):
        await sessions.delete("s1")
    assert not await sessions.exists("s1")
    await sessions.update("s1", {"thread_id": "t"})
    assert [fact.type for fact in log.facts] == ["session.updated", "session.deleted", "session.updated"]
    await assert_rebuilt(store, log)


async def test_nothing_is_stored_while_what_came_before_cannot_be_published(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """R: the topic has every seq in order, or the session stands still."""
    before = await sessions.update("s1", {"user_id": "ann"})
    log.refusals = 2
    for _ in range(2):
        with pytest.raises(PublishError):
            await sessions.increment_counter("s1", "visits")
    assert await store.get("s1") == before
    assert await sessions.increment_counter("s1", "visits") == 1
    await assert_rebuilt(store, log)


@pytest.mark.parametrize("field", ["epoch", "applied", "message_count", "claimed", "nonsense"])
async def test_a_field_that_is_not_for_everybody_is_refused_and_with_it_the_whole_update(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog, field: str
) -> None:
    """U: all of an update, or nothing."""
    before = await sessions.update("s1", {"user_id": "ann"})
    with pytest.raises(ValueError, match=field):
        await sessions.update("s1", {"user_id": "bob", field: 1})
    assert await store.get("s1") == before
    assert log.seqs == [1]


NEARLY_ALL = "x" * (MAX_METADATA_BYTES - 100)


async def test_metadata_that_is_too_large_is_refused_wherever_it_comes_from(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    before = await sessions.set(made(metadata={"a": NEARLY_ALL}))
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: sessions.set(made(metadata={"a": NEARLY_ALL, "b": NEARLY_ALL})),
        lambda: sessions.update("s1", {"metadata": {"a": NEARLY_ALL * 2}}),
        lambda: sessions.update("s1", {"metadata": {"b": NEARLY_ALL}}),
        lambda: sessions.update("s2", {"metadata": {"a": NEARLY_ALL * 2}}),
    ]
    for write in writes:
        with pytest.raises(ValueError, match=str(MAX_METADATA_BYTES)):
            await write()
    assert await store.get("s1") == before
    assert await store.load("s2") is None
    assert log.seqs == [1]
    await assert_rebuilt(store, log)


async def test_counters_count_into_the_size_of_the_metadata(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    before = await sessions.set(made(metadata={"a": NEARLY_ALL}))
    with pytest.raises(ValueError, match=str(MAX_METADATA_BYTES)):
        await sessions.increment_counter("s1", "c" * 120)
    assert await store.get("s1") == before
    await assert_rebuilt(store, log)


UNREADABLE: list[dict[str, Any]] = [
    {"user_id": "x" * 129},
    {"user_id": 7},
    {"thread_id": "a lone surrogate: \ud800"},
    {"escalated": "perhaps"},
    {"metadata": {"nested": {"no": "scalar"}}},
    {"metadata": {"a list": [1]}},
    {"metadata": {7: "seven"}},
    {"metadata": "none"},
]


@pytest.mark.parametrize("updates", UNREADABLE, ids=str)
async def test_what_no_reader_of_the_topic_could_read_is_refused(updates: dict[str, Any]) -> None:
    """L, R: once in the topic, it would stop every rebuild; once in the store, every later writer of the session."""
    store, log = MemorySessionStore(ttl_seconds=60), ReplyLog()
    sessions = direct(store, log)
    before = await sessions.update("s1", {"user_id": "ann"})
    with pytest.raises((ValueError, TypeError)):
        await sessions.update("s1", updates)
    assert await store.get("s1") == before
    await sessions.update("s1", {"user_id": "bob"})
    assert log.seqs == [1, 2]
    await assert_rebuilt(store, log)


async def test_sessions_and_counters_that_no_reader_could_read_are_refused() -> None:
    """L, R: as above, by the other ways to write."""
    store, log = MemorySessionStore(ttl_seconds=60), ReplyLog()
    sessions = direct(store, log)
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: sessions.update("not a session id", {"user_id": "ann"}),
        lambda: sessions.set(made("s/1")),
        lambda: sessions.set(made(), ttl_seconds=0),
        lambda: sessions.set(made(user_id="x" * 129)),
        lambda: sessions.increment_counter("s1", "c" * 129),
        lambda: sessions.increment_counter("s1", MESSAGE_COUNT, 2**70),
    ]
    for write in writes:
        with pytest.raises((ValueError, TypeError)):
            await write()
    assert log.records == []
    assert await store.load("s1") is None


async def test_a_value_is_stored_as_readers_of_the_topic_have_it(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """R: JSON has a null for what is no number, and a null removes the key."""
    await sessions.update("s1", {"metadata": {"share": 0.5}})
    after = await sessions.update("s1", {"escalated": "yes", "metadata": {"share": float("nan")}})
    assert (after.escalated, after.metadata) == (True, {})
    await assert_rebuilt(store, log)


async def test_counters_are_kept_in_the_metadata_or_are_the_message_count(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    await sessions.set(made(message_count=2, metadata={"visits": 40, "plan": "gold", "share": 0.5, "paid": True}))
    assert await sessions.increment_counter("s1", "visits") == 41
    assert await sessions.increment_counter("s1", "visits", -2) == 39
    assert await sessions.increment_counter("s1", "new", 5) == 5
    assert await sessions.increment_counter("s1", MESSAGE_COUNT, 3) == 5
    for no_number in ("plan", "share", "paid"):
        assert await sessions.increment_counter("s1", no_number) == 1, "what is no whole number counts as 0"
    after = await sessions.get("s1")
    assert after is not None
    assert after.message_count == 5
    assert after.metadata == {"visits": 39, "new": 5, "plan": 1, "share": 1, "paid": 1}
    await assert_rebuilt(store, log)


async def test_counting_on_a_session_that_is_not_there_makes_it(sessions: DirectSessions) -> None:
    assert await sessions.increment_counter("s1", "visits") == 1
    assert await sessions.increment_counter("s2", MESSAGE_COUNT) == 1
    assert await sessions.exists("s1")


async def test_setting_a_session_again_replaces_its_metadata_and_message_count(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    first = await sessions.set(made(user_id="ann", message_count=7, escalated=True, metadata={"a": 1, "b": 2}))
    again = await sessions.set(made(thread_id="t", message_count=3, metadata={"b": 3, "c": 4}))
    assert again.metadata == {"b": 3, "c": 4}
    assert again.message_count == 3
    assert (again.user_id, again.thread_id, again.escalated) == ("ann", "t", False), "None leaves what is there"
    assert (again.epoch, again.seq, again.version) == (first.epoch, 2, 2)
    assert await store.get("s1") == again
    await assert_rebuilt(store, log)


async def test_metadata_is_not_replaced_where_the_event_could_not_name_all_keys_that_go(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """R: the event must stay readable; the session can still be written otherwise."""
    await sessions.set(made(metadata={f"old-{n:04}": "x" * 20 for n in range(100)}))
    with pytest.raises(ValueError, match=str(MAX_METADATA_BYTES)):
        await sessions.set(made(metadata={f"new-{n:04}": "x" * 20 for n in range(100)}))
    after = await sessions.set(made(metadata={"little": 1}))
    assert after.metadata == {"little": 1}
    assert await store.get("s1") == after
    await assert_rebuilt(store, log)


async def test_a_session_lives_as_long_as_it_was_set_to(backend: Backend, log: ReplyLog) -> None:
    store = backend.store(ttl_seconds=60.0)
    sessions = direct(store, log)
    await sessions.set(made("s2"))
    await sessions.set(made("s1"), ttl_seconds=1)
    after = await sessions.increment_counter("s1", "visits")
    live = await sessions.get("s1")
    assert after == 1
    assert live is not None
    assert store.ttl_of(live) == 1, "every later write keeps it"

    async def gone() -> bool:
        return not await sessions.exists("s1")

    await backend.until(gone)
    assert await sessions.exists("s2")
    reborn = await sessions.update("s1", {"user_id": "ann"})
    assert (reborn.seq, reborn.metadata, reborn.ttl_seconds) == (1, {}, None)
    assert reborn.epoch > live.epoch
    await assert_rebuilt(store, log)


INCREMENTS = 200


async def test_concurrent_increments_from_several_stores_lose_nothing(backend: Backend, log: ReplyLog) -> None:
    """U: each of hundreds of increments is in the sum once, and each sum was returned once."""
    in_memory = backend.name == "memory"
    # Patience for the last of many that wait, on a machine that does other things as well.
    stores = [backend.store(lease_seconds=5.0, attempts=12) for _ in range(1 if in_memory else 4)]
    for store in stores:
        # Connected one after the other: a node that is late counts as one that doesn't answer.
        await store.ping()
        await asyncio.gather(store.test_locks(), store.test_locks())
    writers = [direct(store, log) for store in stores]

    async def count_up(n: int) -> int:
        field = MESSAGE_COUNT if n < INCREMENTS / 2 else "visits"
        return await writers[n % len(writers)].increment_counter("s1", field)

    sums = await asyncio.gather(*map(count_up, range(INCREMENTS)))
    each = range(1, INCREMENTS // 2 + 1)
    assert sorted(sums) == sorted([*each, *each])
    final = await stores[0].get("s1")
    assert final is not None
    assert (final.message_count, final.metadata) == (INCREMENTS // 2, {"visits": INCREMENTS // 2})
    assert final.version == INCREMENTS
    assert log.seqs == list(range(1, INCREMENTS + 1))
    await assert_rebuilt(stores[0], log)


async def test_a_write_that_is_not_atomic_conflicts_when_somebody_else_was_faster(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """U: neither is written over the other."""
    await sessions.update("s1", {"user_id": "ann"})
    other = direct(store, log)
    log.meanwhile.append(lambda: other.update("s1", {"metadata": {"by": "other"}}, atomic=False))
    with pytest.raises(Conflict, match="s1"):
        await sessions.update("s1", {"metadata": {"by": "me"}}, atomic=False)
    live = await store.get("s1")
    assert live is not None
    assert (live.user_id, live.metadata) == ("ann", {"by": "other"})
    after = await sessions.update("s1", {"metadata": {"by": "me"}}, atomic=False)
    assert after.metadata == {"by": "me"}
    assert log.seqs == [1, 2, 3]
    await assert_rebuilt(store, log)


async def test_of_many_writes_that_are_not_atomic_each_is_there_once_or_conflicts(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """U"""
    attempts = [sessions.update("s1", {"metadata": {f"k{n}": n}}, atomic=False) for n in range(50)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    live = await store.get("s1")
    assert live is not None
    assert live.metadata == {f"k{n}": n for n in sorted(range(50), key=str) if outcomes[n] not in refused}
    assert live.version == 50 - len(refused)
    assert live.version >= 1
    assert {type(refusal) for refusal in refused} <= {Conflict}
    await assert_rebuilt(store, log)


async def test_an_atomic_write_waits_for_whoever_writes_without_the_lock(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """U: it is decided anew from what the other wrote."""
    await sessions.increment_counter("s1", "visits")
    other = direct(store, log)
    log.meanwhile.append(lambda: other.update("s1", {"user_id": "ann"}, atomic=False))
    assert await sessions.increment_counter("s1", "visits") == 2
    live = await store.get("s1")
    assert live is not None
    assert (live.user_id, live.version) == ("ann", 3)
    await assert_rebuilt(store, log)


async def test_an_atomic_write_waits_for_the_lock_and_gives_up_in_time(backend: Backend, log: ReplyLog) -> None:
    """O"""
    store = backend.store(lease_seconds=0.5)
    holder = store if backend.name == "memory" else backend.store(lease_seconds=10.0)
    async with holder.lock("s1"):
        with pytest.raises(LockTimeout, match="s1"):
            await direct(store, log).increment_counter("s1", "visits")
        await direct(store, log).increment_counter("s2", "visits")
    assert await store.load("s1") is None


async def test_without_locks_only_what_needs_none_is_written(log: ReplyLog) -> None:
    store = MemorySessionStore(ttl_seconds=60, lock=None)
    sessions = direct(store, log)
    after = await sessions.update("s1", {"user_id": "ann"}, atomic=False)
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: sessions.increment_counter("s1", "visits"),
        lambda: sessions.set(made()),
        lambda: sessions.delete("s1"),
    ]
    for write in writes:
        with pytest.raises(LockingDisabled):
            await write()
    assert await store.get("s1") == after


async def test_a_deleted_session_is_gone_everywhere_and_a_later_write_begins_a_new_epoch(
    sessions: DirectSessions, store: SessionStore, log: ReplyLog
) -> None:
    """X: nothing of the earlier life is in the later one."""
    before = await sessions.set(
        made(user_id="ann", message_count=5, metadata={"secret": "CANARY"}, fingerprint_hash="f"), ttl_seconds=600
    )
    assert await sessions.delete("s1")
    assert await sessions.get("s1") is None
    assert not await sessions.exists("s1")
    assert b"CANARY" not in b"".join(await store.events("s1"))
    stored = await store.load("s1")
    assert stored is not None
    assert stored.session.deleted
    await assert_rebuilt(store, log)
    reborn = await sessions.update("s1", {"thread_id": "t"})
    assert reborn.epoch > before.epoch
    assert (reborn.seq, reborn.version, reborn.message_count) == (1, 3, 0)
    assert reborn == replace(made(thread_id="t"), **{name: getattr(reborn, name) for name in OF_THE_STORE})
    await assert_rebuilt(store, log)


OF_THE_STORE = ("epoch", "seq", "version", "request_id", "created_at", "updated_at", "recent_ids")


async def test_only_what_is_there_is_deleted(sessions: DirectSessions, log: ReplyLog) -> None:
    assert not await sessions.delete("s1")
    assert log.records == []
    await sessions.update("s1", {"user_id": "ann"})
    assert await sessions.delete("s1")
    assert not await sessions.delete("s1")
    assert [fact.type for fact in log.facts] == ["session.updated", "session.deleted"]


async def test_a_session_that_expires_while_its_deletion_waits_is_not_there(backend: Backend, log: ReplyLog) -> None:
    store = backend.store(ttl_seconds=1.0, lease_seconds=10.0)
    sessions = direct(store, log)
    async with store.lock("s1"):
        await sessions.update("s1", {"user_id": "ann"}, atomic=False)
        deletion = asyncio.ensure_future(sessions.delete("s1"))

        async def gone() -> bool:
            return await store.load("s1") is None

        await backend.until(gone)
        assert not deletion.done()
    assert not await deletion
    assert log.seqs == [1]


async def test_sessions_do_not_mix(sessions: DirectSessions, store: SessionStore, log: ReplyLog) -> None:
    """X"""
    names = ["s1", "s10", "S1"]
    await asyncio.gather(*(sessions.update(name, {"metadata": {"canary": name}}) for name in names))
    await sessions.delete("s10")
    for name in ("s1", "S1"):
        live = await sessions.get(name)
        assert live is not None
        assert live.metadata == {"canary": name}
        await assert_rebuilt(store, log, name)
