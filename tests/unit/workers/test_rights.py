"""A store that refuses a repair, or was replaced: the group coordinator says who owns a partition (O, U)."""

import time
from collections.abc import Iterable, Mapping

import pytest
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaConnectionError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from store.errors import StoreReplaced
from store.memory import MemorySessionStore
from store.protocol import Fence
from tests.unit.workers.dispatch_rig import P0, P1, FakeConsumer, FakeRepair, Rig
from tests.unit.workers.fakes import TOPICS, Worker, home, inbound, until
from tests.unit.workers.test_repair import ALL, ReplyLog, repair_of
from workers.errors import NotOwner
from workers.incarnations import Incarnations
from workers.records import Partition
from workers.rights import Granted, Rights

NO_MEMBER = pytest.mark.parametrize(
    "refusal",
    [CommitFailedError, IllegalGenerationError, IllegalStateError, RebalanceInProgressError, UnknownMemberIdError],
)


class Unheard(Exception):
    """A type that the code does not know."""


class FencedRepair(FakeRepair):
    """Finds, the first `times`, that a later owner has written."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times = times
        self.fences: list[Fence] = []

    async def run(self, partitions: Iterable[Partition], fence: Fence) -> None:
        await super().run(partitions, fence)
        self.fences.append(fence)
        if len(self.fences) <= self.times:
            raise NotOwner("a", fence.token + 1)


async def obtained(consumer: FakeConsumer, repair: FakeRepair, *partitions: Partition) -> Granted:
    store = MemorySessionStore(ttl_seconds=60)

    async def nothing(assigned: object) -> None: ...

    rights = Rights(store, consumer, repair, Incarnations(store), nothing, publish_seconds=0.0)
    return await rights.obtain(dict.fromkeys(partitions, time.monotonic()), accept_server=True)


async def test_a_member_whose_repair_is_fenced_takes_a_new_fence_and_repairs_again() -> None:
    """O: the group takes its commit, so whoever wrote under the later fence is gone."""
    consumer, repair = FakeConsumer(), FencedRepair(times=2)
    consumer.produce(P0, "a", "b", "c")
    granted = await obtained(consumer, repair, P0)
    tokens = [fence.token for fence in repair.fences]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 3
    assert granted.fence == repair.fences[-1]
    assert granted.read_from == {P0: 0}


async def test_asking_the_group_moves_no_offset() -> None:
    """C, L: what is committed is what was committed, or where the log begins."""
    consumer, repair = FakeConsumer(), FencedRepair()
    for partition in (P0, P1):
        consumer.produce(partition, *"abcdef")
    consumer.committed[P0] = 4
    consumer.begins = {P0: 1, P1: 2}
    await obtained(consumer, repair, P0, P1)
    assert consumer.commits == [{P0: 4, P1: 2}]


@NO_MEMBER
async def test_who_is_no_member_any_more_gets_no_right(refusal: type[Exception]) -> None:
    """O"""
    consumer, repair = FakeConsumer(), FencedRepair()
    consumer.refusals.append(refusal())
    with pytest.raises(NotOwner):
        await obtained(consumer, repair, P0)
    assert len(repair.fences) == 1
    assert consumer.commits == []


@pytest.mark.parametrize("error", [KafkaConnectionError(), RuntimeError("reset"), Unheard("?")])
async def test_a_group_that_does_not_answer_is_asked_again(error: Exception) -> None:
    """L: an error that is no refusal says nothing about who owns the partition."""
    consumer, repair = FakeConsumer(), FencedRepair()
    consumer.produce(P0, "a")
    consumer.refusals += [error, error]
    granted = await obtained(consumer, repair, P0)
    assert granted.fence == repair.fences[-1]
    assert consumer.commits == [{P0: 0}]


@NO_MEMBER
async def test_a_worker_whose_repair_is_fenced_and_that_is_no_member_leaves_the_partition_and_says_so(
    refusal: type[Exception],
) -> None:
    """O, H"""
    rig = Rig(repair=FencedRepair())
    rig.consumer.produce(P0, "a")
    rig.consumer.refusals.append(refusal())
    await rig.assign(P0)
    assert rig.dispatcher.assignments == {}
    assert "another worker's" in rig.dispatcher.refused[P0]
    assert P0 in rig.consumer.paused
    rig.consumer.resume(P0)
    rig.feed(P0)
    assert rig.turns.started == []
    assert rig.dispatcher.preparing_problem(-1.0) is None, "it is not on its way"


async def test_a_partition_that_was_left_is_worked_on_when_the_group_gives_it_again() -> None:
    """L"""
    rig = Rig(repair=FencedRepair())
    rig.consumer.produce(P0, "a")
    rig.consumer.refusals.append(CommitFailedError())
    await rig.assign(P0)
    await rig.dispatcher.revoked([P0])
    assert rig.dispatcher.refused == {}
    await rig.dispatcher.assigned([P0])
    await until(lambda: P0 in rig.dispatcher.assignments)
    rig.feed(P0)
    await rig.turns.end(0)
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 1}


async def test_a_worker_whose_repair_is_fenced_and_that_is_a_member_works_under_a_later_fence() -> None:
    """L, O"""
    repair = FencedRepair()
    rig = Rig(repair=repair)
    rig.consumer.produce(P0, "a")
    await rig.assign(P0)
    assert rig.dispatcher.refused == {}
    assert rig.dispatcher.assignments[P0].fence == repair.fences[1]
    rig.feed(P0)
    await rig.turns.end(0)
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 1}


async def test_a_repair_that_a_later_owner_s_fence_refuses_is_not_counted_as_done() -> None:
    """R, O: or the mark would say that the store has what it lacks."""
    worker = Worker(token=2_000)
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    early = list(worker.publisher.of(TOPICS.replies))
    behind = MemorySessionStore(ttl_seconds=3_600 * 24)
    await repair_of(behind, ReplyLog(early))[0].run(ALL, Fence("partition", 2_000))
    before = await behind.load("s1")
    await worker.run(inbound("s1", 1, id="m2", text="Hello"))
    log = ReplyLog(worker.publisher.of(TOPICS.replies))
    marks = await behind.progress([f"{TOPICS.replies}:{home('s1').partition}"])
    repair, observer = repair_of(behind, log)
    with pytest.raises(NotOwner) as raised:
        await repair.run(ALL, Fence("partition", 1_999))
    assert (raised.value.session_id, raised.value.token) == ("s1", 2_000)
    assert await behind.load("s1") == before
    assert observer.restored == 0
    assert await behind.progress([f"{TOPICS.replies}:{home('s1').partition}"]) == marks
    await repair.run(ALL, Fence("partition", 2_001))
    after = await behind.get("s1")
    assert after is not None
    assert after.seq == 2


class Replaced(MemorySessionStore):
    """Another server, until it is accepted; a fenced write of before asks the group meanwhile."""

    def __init__(self) -> None:
        super().__init__(ttl_seconds=60)
        self.replaced = False
        self.saves = 0

    async def save_progress(self, offsets: Mapping[str, int]) -> None:
        self.saves += 1
        if self.replaced:
            raise StoreReplaced("another")
        await super().save_progress(offsets)

    async def accept_server(self) -> str:
        self.replaced = False
        return ""


async def test_a_store_that_was_replaced_as_a_partition_is_reclaimed_is_distrusted_and_repaired() -> None:
    """U, L, H: not asked again for ever; and all partitions see it."""
    store = Replaced()
    rig = Rig(store)
    rig.consumer.produce(P0, "a")
    rig.consumer.produce(P1, "x")
    await rig.assign(P0, P1)
    rig.feed(P0, P1)
    await until(lambda: len(rig.turns.running) == 2)
    repaired = len(rig.repair.repaired)
    store.replaced = True
    await rig.turns.end(0, NotOwner("a", 99))
    await until(lambda: {P0, P1} <= rig.dispatcher.assignments.keys())
    assert rig.repair.signs == ["server_replaced"]
    assert rig.repair.repaired[repaired:] == [{P0, P1}]
    rig.feed(P0, P1)
    await rig.turns.end(0)
    await rig.turns.end(0, partition=P1)
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 1, P1: 1}


async def test_a_partition_that_is_reclaimed_waits_through_unknown_errors_of_the_store() -> None:
    """L"""

    class Failing(MemorySessionStore):
        failures = 0

        async def save_progress(self, offsets: Mapping[str, int]) -> None:
            if self.failures:
                self.failures -= 1
                raise Unheard("?")
            await super().save_progress(offsets)

    store = Failing(ttl_seconds=60)
    rig = Rig(store)
    rig.consumer.produce(P0, "a")
    await rig.assign(P0)
    rig.feed(P0)
    store.failures = 2
    before = rig.dispatcher.assignments[P0].fence
    await rig.turns.end(0, NotOwner("a", 99))
    await until(lambda: P0 in rig.dispatcher.assignments and rig.dispatcher.assignments[P0].fence != before)
    rig.feed(P0)
    await rig.turns.end(0)
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 1}
