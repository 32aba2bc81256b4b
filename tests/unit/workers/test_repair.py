"""What the store lost comes back from the reply topic, and nothing else happens to it (R)."""

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.fold import evolve
from schemas.partition import home_partition
from schemas.publishing import Record
from schemas.replies import ReplyEvent, encode_reply
from schemas.sealed import is_sealed
from schemas.session import RECENT_IDS, SessionData
from store.memory import MemorySessionStore
from store.protocol import Fence, Restorable, RestoreOutcome, SessionStore
from store.seals import NO_KEYS, Seals
from tests.contract.keys import System
from tests.unit.schemas.events import conversations as drawn_conversations
from tests.unit.workers.fakes import PARTITIONS, TOPICS, Worker, home, inbound
from workers import repair as repair_module
from workers.errors import NotOwner
from workers.incarnations import Incarnations
from workers.records import Partition
from workers.repair import StoreRepair

ALL = [Partition(TOPICS.inbound, number) for number in range(PARTITIONS)]
SESSIONS = [f"s{n}" for n in range(20)]
NOW = 1_767_323_045.0
LATER = Fence("partition", 1_000)


class ReplyLog:
    """The reply topic, as a consumer without a group reads it."""

    def __init__(self, records: list[Record]) -> None:
        self.logs: dict[int, list[Record]] = {number: [] for number in range(PARTITIONS)}
        for record in records:
            assert record.partition is not None
            self.logs[record.partition].append(record)
        self.positions: dict[int, int] = {}
        self.first = dict.fromkeys(self.logs, 0)
        self.read = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def assign(self, places: list[TopicPartition]) -> None:
        self.positions = {}

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.positions[place.partition] = offset

    async def position(self, place: TopicPartition) -> int:
        return self.positions[place.partition]

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: self.first[place.partition] for place in places}

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: len(self.logs[place.partition]) for place in places}

    async def getmany(
        self, *places: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[Any]]:
        batches = {}
        for place in places:
            at = self.positions[place.partition]
            found = self.logs[place.partition][at : at + 3]
            self.positions[place.partition] += len(found)
            self.read += len(found)
            batches[place] = [_Read(place.partition, at + n, record) for n, record in enumerate(found)]
        return batches


class _Read:
    def __init__(self, partition: int, offset: int, record: Record) -> None:
        self.partition, self.offset, self.key, self.value = partition, offset, record.key, record.value


class Counting:
    def __init__(self) -> None:
        self.signs: list[str] = []
        self.restored = 0

    def store_forgot(self, sign: str) -> None:
        self.signs.append(sign)

    def sessions_restored(self, count: int) -> None:
        self.restored += count


def repair_of(
    store: SessionStore, log: ReplyLog, *, now: float = NOW, seals: Seals = NO_KEYS
) -> tuple[StoreRepair, Counting]:
    observer = Counting()
    made = StoreRepair(
        store,
        lambda: log,
        inbound_topic=TOPICS.inbound,
        reply_topic=TOPICS.replies,
        partitions=lambda: PARTITIONS,
        incarnations=Incarnations(store),
        observer=observer,
        seals=seals,
        clock=lambda: now,
    )
    return made, observer


async def conversations(*, turns: int = 4, seals: Seals = NO_KEYS) -> Worker:
    """A worker whose sessions had a few turns, an update and here and there a deletion."""
    worker = Worker(seals=seals)
    worker.clock.ms = int(NOW * 1000) - 3_600_000
    for turn in range(turns):
        for n, session_id in enumerate(SESSIONS):
            await worker.run(inbound(session_id, turn, id=f"m{turn}", text=f"Question {turn}"))
            if n % 5 == 0 and turn == 1:
                await worker.run(
                    inbound(session_id, 100 + turn, id="u", type="session.update", changes={"thread_id": "t"})
                )
            if n % 7 == 0 and turn == 2:
                await worker.run(inbound(session_id, 102, id="d", type="session.delete"))
    return worker


async def assert_equal(left: SessionStore, right: SessionStore) -> None:
    """R"""
    for session_id in SESSIONS:
        a, b = await left.load(session_id), await right.load(session_id)
        assert (a and a.session.to_json()) == (b and b.session.to_json())
        assert list(await left.events(session_id)) == list(await right.events(session_id))


def copied(store: SessionStore) -> MemorySessionStore:
    """What a replica had at this moment."""
    assert isinstance(store, MemorySessionStore)
    copy = MemorySessionStore(ttl_seconds=3_600 * 24)
    copy._entries = deepcopy(store._entries)
    copy._progress = dict(store._progress)
    return copy


async def test_a_store_that_lost_everything_is_rebuilt_byte_for_byte() -> None:
    """R"""
    worker = await conversations()
    empty = MemorySessionStore(ttl_seconds=3_600 * 24)
    repair, observer = repair_of(empty, ReplyLog(worker.publisher.of(TOPICS.replies)))
    await repair.run(ALL, LATER)
    await assert_equal(empty, worker.store)
    assert observer.restored == len(SESSIONS)


async def test_only_what_is_beyond_the_mark_is_read() -> None:
    """R: the mark that the store still has says from where on it may lack something."""
    worker = await conversations(turns=2)
    log = ReplyLog(worker.publisher.of(TOPICS.replies))
    await repair_of(worker.store, log)[0].run(ALL, LATER)
    replica = copied(worker.store)
    await worker.run(inbound("s3", 50, id="late", text="Lost"))
    log = ReplyLog(worker.publisher.of(TOPICS.replies))
    repair, observer = repair_of(replica, log)
    await repair.run(ALL, LATER)
    assert log.read == 1
    assert observer.restored == 1
    await assert_equal(replica, worker.store)


async def test_a_store_that_lost_nothing_is_left_as_it_is() -> None:
    worker = await conversations()
    before = copied(worker.store)
    log = ReplyLog(worker.publisher.of(TOPICS.replies))
    repair, observer = repair_of(worker.store, log)
    await repair.run(ALL, LATER)
    await assert_equal(worker.store, before)
    assert observer.restored == 0
    read = log.read
    await repair.run(ALL, LATER)
    assert log.read == read, "the second time nothing was left to read"


async def test_a_session_that_is_lost_as_a_whole_is_read_from_its_beginning() -> None:
    """R: also where the mark says that its beginning was there once."""
    worker = await conversations(turns=2)
    await repair_of(worker.store, ReplyLog(worker.publisher.of(TOPICS.replies)))[0].run(ALL, LATER)
    replica = copied(worker.store)
    await worker.run(inbound("s3", 50, id="late", text="Lost"))
    del replica._entries["s3"]
    repair, observer = repair_of(replica, ReplyLog(worker.publisher.of(TOPICS.replies)))
    await repair.run(ALL, LATER)
    await assert_equal(replica, worker.store)
    assert observer.restored == 1


async def test_what_would_have_expired_by_now_stays_gone() -> None:
    worker = await conversations()
    empty = MemorySessionStore(ttl_seconds=60)
    repair, observer = repair_of(empty, ReplyLog(worker.publisher.of(TOPICS.replies)), now=NOW + 24 * 3_600)
    await repair.run(ALL, LATER)
    assert observer.restored == 0
    assert [session_id for session_id in SESSIONS if await empty.load(session_id)] == []


async def test_other_partitions_are_left_to_their_owners() -> None:
    worker = await conversations()
    empty = MemorySessionStore(ttl_seconds=3_600 * 24)
    mine = home("s3")
    await repair_of(empty, ReplyLog(worker.publisher.of(TOPICS.replies)))[0].run(
        [mine, Partition("another-system", 0)], LATER
    )
    rebuilt = {session_id for session_id in SESSIONS if await empty.load(session_id)}
    assert rebuilt == {session_id for session_id in SESSIONS if home(session_id) == mine}


async def test_a_session_whose_beginning_is_no_longer_in_the_topic_begins_anew() -> None:
    worker = await conversations()
    log = ReplyLog(worker.publisher.of(TOPICS.replies))
    number = home("s3").partition
    log.first[number] = 1
    empty = MemorySessionStore(ttl_seconds=3_600 * 24)
    await repair_of(empty, log)[0].run([home("s3")], LATER)
    first = log.logs[number][0].key
    assert first is not None
    assert await empty.load(first.decode()) is None


async def test_a_record_that_is_no_event_stops_nothing() -> None:
    worker = await conversations()
    records = worker.publisher.of(TOPICS.replies)
    strange = Record(TOPICS.replies, b"x", b"no event", home("s3").partition)
    empty = MemorySessionStore(ttl_seconds=3_600 * 24)
    await repair_of(empty, ReplyLog([records[0], strange, *records[1:]]))[0].run(ALL, LATER)
    await assert_equal(empty, worker.store)


async def test_what_an_earlier_owner_still_writes_after_the_repair_is_fenced() -> None:
    """O"""
    worker = await conversations(turns=1)
    empty = MemorySessionStore(ttl_seconds=3_600 * 24)
    await repair_of(empty, ReplyLog(worker.publisher.of(TOPICS.replies)))[0].run(ALL, LATER)
    late = Worker(empty, worker.publisher, token=worker.token, clock=worker.clock)
    with pytest.raises(NotOwner):
        await late.turn(inbound("s2", 9, id="late", text="Still here?"))


async def test_a_store_that_lost_everything_is_rebuilt_from_sealed_events_of_which_some_were_erased() -> None:
    """R: of a deleted session only the deletion can be read, and its tombstone follows from that."""
    system = System()
    worker = await conversations(seals=system.process())
    records = worker.publisher.of(TOPICS.replies)
    assert {is_sealed(record.value) for record in records} == {True, False}
    empty = MemorySessionStore(ttl_seconds=3_600 * 24)
    repair, observer = repair_of(empty, ReplyLog(records), seals=system.process())
    await repair.run(ALL, LATER)
    await assert_equal(empty, worker.store)
    assert observer.restored == len(SESSIONS)


async def test_whoever_notices_that_the_store_forgot_trusts_no_index_either() -> None:
    system = System()
    keys = system.process()
    worker = await conversations(turns=1, seals=keys)
    repair, _ = repair_of(worker.store, ReplyLog(worker.publisher.of(TOPICS.replies)), seals=keys)
    await keys.destroy("gone", ["00" * 16])
    system.index.destroyed.clear()
    await keys.follow()
    repair.noticed("server_replaced")
    system.index.keys.clear()
    empty = MemorySessionStore(ttl_seconds=3_600 * 24)
    system.time.now += 301
    await repair_of(empty, ReplyLog(worker.publisher.of(TOPICS.replies)), seals=keys)[0].run(ALL, LATER)
    await assert_equal(empty, worker.store)


def earlier_ids(store: MemorySessionStore) -> dict[str, dict[str, int]]:
    """Per session that lives, the ids that are remembered beside it."""
    return {session_id: entry.earlier_ids for session_id, entry in store._entries.items() if not entry.session.deleted}


async def repaired(records: list[Record], *, kept_bytes: int) -> tuple[MemorySessionStore, int]:
    """An empty store, repaired with so much room for sessions that are folded; and how often one was written."""

    class Written(MemorySessionStore):
        restores = 0

        async def restore(self, lost: Sequence[Restorable], fence: Fence) -> list[RestoreOutcome]:
            self.restores += len(lost)
            return await super().restore(lost, fence)

    store = Written(ttl_seconds=3_600 * 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair_module, "_KEPT_BYTES", kept_bytes)
        await repair_of(store, ReplyLog(records))[0].run(ALL, LATER)
    return store, store.restores


@settings(max_examples=100, deadline=None)
@given(st.lists(drawn_conversations(), min_size=1, max_size=5), st.sampled_from([0, 3_000, 6_000]))
def test_a_repair_with_little_room_gives_what_one_with_much_gives(
    drawn: list[list[ReplyEvent]], kept_bytes: int
) -> None:
    """R: then the topic is read once for each share of the sessions, and each is written once."""
    events = [replace(event, session_id=f"s{n}") for n, each in enumerate(drawn) for event in each]
    # Turn by turn, as the topic has them.
    events.sort(key=lambda event: event.version)
    records = [
        Record(
            TOPICS.replies,
            event.session_id.encode(),
            encode_reply(event),
            home_partition(event.session_id, PARTITIONS),
        )
        for event in events
    ]

    async def both() -> None:
        roomy, _ = await repaired(records, kept_bytes=2**30)
        narrow, _ = await repaired(records, kept_bytes=kept_bytes)
        await assert_equal(narrow, roomy)
        assert earlier_ids(narrow) == earlier_ids(roomy)
        for n, each in enumerate(drawn):
            state: SessionData | None = None
            for event in each:
                state = evolve(state, replace(event, session_id=f"s{n}"))
            stored = await narrow.load(f"s{n}")
            assert (stored and stored.session) == state

    asyncio.run(both())


async def test_a_long_conversation_is_put_back_with_little_room_and_so_are_its_ids() -> None:
    """R, D: each is written once, and every id that left the session's own list is there."""
    worker = Worker()
    worker.clock.ms = int(NOW * 1000) - 3_600_000
    for n in range(100):
        for session_id in ("s1", "s2"):
            await worker.run(inbound(session_id, n, id=f"m{n}", text="Hello"))
    store, restores = await repaired(worker.publisher.of(TOPICS.replies), kept_bytes=0)
    assert restores == 2, "each is written once"
    await assert_equal(store, worker.store)
    assert isinstance(worker.store, MemorySessionStore)
    assert earlier_ids(store) == earlier_ids(worker.store)
    assert len(earlier_ids(store)["s1"]) == 100 - RECENT_IDS


async def test_a_session_that_lacks_events_is_not_written_before_it_has_them() -> None:
    """R: what was read of it follows nothing yet, and would be lost."""
    worker = await conversations(turns=3)
    await repair_of(worker.store, ReplyLog(worker.publisher.of(TOPICS.replies)))[0].run(ALL, LATER)
    replica = copied(worker.store)
    await worker.run(*(inbound("s3", 50 + n, id=f"late{n}", text="Lost") for n in range(5)))
    del replica._entries["s3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair_module, "_KEPT_BYTES", 0)
        await repair_of(replica, ReplyLog(worker.publisher.of(TOPICS.replies)))[0].run(ALL, LATER)
    await assert_equal(replica, worker.store)
