"""The dispatcher from one assignment to the next: readiness, rewinding, fences, giving up."""

import asyncio

from aiokafka.errors import CommitFailedError

from store.errors import StoreUnavailable
from store.memory import MemorySessionStore
from tests.contract.sessions import session
from tests.unit.workers.dispatch_rig import P0, P1, Rig, working
from tests.unit.workers.fakes import until
from workers.errors import NotOwner, StoreForgot
from workers.records import Partition


async def test_a_partition_that_comes_back_to_the_same_worker_goes_on_from_the_committed_offset() -> None:
    """L, O"""
    async with working("a", "a", "b") as rig:
        await rig.turns.end(0)
        await rig.dispatcher.revoked([P0])
        first = rig.turns.started[0].assignment
        await rig.assign(P0)
        rig.feed(P0)
        await until(lambda: rig.turns.offsets[-2:] == [1, 2])
        second = rig.turns.started[-1].assignment
        assert second.generation > first.generation
        assert second.fence.token > first.fence.token
        for offset in (1, 2):
            await rig.turns.end(offset)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 3}


async def test_records_that_come_before_the_assignment_is_ready_are_read_again() -> None:
    """L"""
    rig = Rig()
    rig.consumer.produce(P0, "a", "b")
    rig.feed(P0)
    assert rig.turns.started == []
    await rig.dispatcher.assigned([P0])
    rig.consumer.resume(P0)
    rig.feed(P0)
    await until(lambda: P0 in rig.dispatcher.assignments)
    rig.feed(P0)
    await until(lambda: rig.turns.offsets == [0, 1])


async def test_records_that_come_while_a_partition_is_prepared_are_read_again() -> None:
    """L: otherwise they are skipped, and the next commit goes past them."""
    rig = Rig()
    rig.consumer.produce(P0, "a")
    rig.consumer.produce(P1, "b")
    rig.feed(P0)
    late = rig.consumer.poll(P1)

    rig.consumer.on_log_end = lambda: rig.dispatcher.accept(late)
    await rig.dispatcher.assigned([P0, P1])
    await until(lambda: {P0, P1} <= rig.dispatcher.assignments.keys())
    rig.feed(P0, P1)
    await asyncio.sleep(0)
    assert sorted(taken.session_id or "" for taken in rig.turns.started) == ["a", "b"]


async def test_records_below_the_progress_of_the_store_are_done() -> None:
    """D: the group's offsets were reset; nothing runs again."""
    rig = Rig()
    rig.consumer.produce(P0, "a", "b", "c")
    await rig.store.save_progress({str(P0): 2})
    await rig.assign(P0)
    rig.feed(P0)
    await until(lambda: rig.turns.offsets == [2])
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 2}


async def test_a_log_that_ends_below_the_progress_is_refused_and_says_so() -> None:
    """A topic that was recreated is an error to solve, not to skip."""
    rig = Rig()
    rig.consumer.produce(P0, "a")
    await rig.store.save_progress({str(P0): 7})
    await rig.assign(P0, P1)
    assert "supportstream topics adopt" in rig.dispatcher.refused[P0]
    assert P0 in rig.consumer.paused
    assert list(rig.dispatcher.assignments) == [P1]
    await rig.dispatcher.revoked([P0, P1])
    assert rig.dispatcher.refused == {}


async def test_an_assignment_waits_for_store_and_broker() -> None:
    class Recovering(MemorySessionStore):
        failures = 2

        async def next_fence(self) -> int:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("away")
            return await super().next_fence()

    rig = Rig(Recovering(ttl_seconds=60))
    rig.consumer.produce(P0, "a")
    await rig.assign(P0)
    rig.feed(P0)
    await until(lambda: rig.turns.offsets == [0])


async def test_a_revocation_ends_an_assignment_that_is_not_ready() -> None:
    class Away(MemorySessionStore):
        async def next_fence(self) -> int:
            raise StoreUnavailable("away")

    rig = Rig(Away(ttl_seconds=60))
    await rig.dispatcher.assigned([P0])
    await rig.dispatcher.revoked([P0])
    assert rig.dispatcher.assignments == {}


async def test_a_fenced_member_takes_a_new_fence_and_reads_again() -> None:
    """O: the group still says it is ours; whoever wrote was wrong, or is gone."""
    async with working("a", "b") as rig:
        before = rig.dispatcher.assignments[P0].fence
        await rig.turns.end(0, NotOwner("a", 99))
        await until(lambda: P0 in rig.dispatcher.assignments and rig.dispatcher.assignments[P0].fence != before)
        assert rig.dispatcher.assignments[P0].fence.token > before.token
        rig.feed(P0)
        await rig.turns.end(1)
        await until(lambda: rig.turns.offsets.count(0) == 2)


async def test_who_is_no_longer_a_member_leaves_the_partition_alone() -> None:
    """O"""
    async with working("a", "b") as rig:
        rig.consumer.refusals.append(CommitFailedError())
        await rig.turns.end(0, NotOwner("a", 99))
        await until(lambda: P0 not in rig.dispatcher.assignments)
        assert rig.consumer.committed == {}
        await rig.turns.end(1)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {}


async def test_a_fenced_member_commits_no_more_than_the_store_knows() -> None:
    async with working("a", "b") as rig:
        await rig.turns.end(0)
        await rig.turns.end(1, NotOwner("b", 99))
        await until(lambda: rig.consumer.committed == {P0: 1})
        assert await rig.store.progress([str(P0)]) == {str(P0): 1}


async def test_a_partition_that_was_full_when_it_was_fenced_is_bounded_afterwards_too() -> None:
    async with working("a", "b", "c", "d", max_open=4) as rig:
        assert rig.consumer.paused == {P0}
        await rig.turns.end(0, NotOwner("a", 99))
        await until(lambda: P0 in rig.dispatcher.assignments)
        rig.feed(P0)
        assert rig.dispatcher.open_records == 4
        assert rig.consumer.paused == {P0}


async def test_a_refused_partition_stands_still_and_says_why() -> None:
    async with working("a", "b") as rig:
        rig.dispatcher.refuse([P0], RuntimeError("broken"))
        assert P0 in rig.consumer.paused
        assert "broken" in rig.dispatcher.refused[P0]
        await rig.turns.end(0)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {}


def remember(rig: Rig, **partition_of: Partition) -> None:
    """Sessions as turns of these partitions left them."""
    for session_id, partition in partition_of.items():
        rig.l1.put(session(session_id), partition, 60.0)


async def test_revoked_sessions_are_forgotten_here() -> None:
    """O: another worker may change them."""
    async with working("a") as rig:
        await rig.assign(P1)
        remember(rig, a=P0, b=P0, x=P1)
        await rig.dispatcher.revoked([P0])
        assert (rig.l1.get("a"), rig.l1.get("b")) == (None, None)
        assert rig.l1.get("x") is not None, "another partition's sessions stay"


async def test_sessions_of_a_partition_that_is_let_go_are_forgotten_at_once() -> None:
    """O: the store fenced a write, so another worker may have changed any of them."""
    async with working("a", "b") as rig:
        await rig.assign(P1)
        remember(rig, a=P0, b=P0, x=P1)
        rig.consumer.refusals.append(CommitFailedError())
        await rig.turns.end(0, NotOwner("a", 99))
        await until(lambda: P0 in rig.dispatcher.refused)
        assert (rig.l1.get("a"), rig.l1.get("b")) == (None, None)
        assert rig.l1.get("x") is not None, "another partition's sessions stay"


async def test_sessions_of_a_refused_partition_are_forgotten() -> None:
    """O"""
    async with working("a") as rig:
        remember(rig, a=P0)
        rig.dispatcher.refuse([P0], RuntimeError("broken"))
        assert rig.l1.get("a") is None


async def test_when_the_store_lost_writes_all_sessions_are_forgotten() -> None:
    """U: what is remembered may be ahead of the store, and what the store is repaired to may be ahead of it."""
    async with working("a") as rig:
        await rig.assign(P1)
        remember(rig, a=P0, x=P1)
        await rig.turns.end(0, StoreForgot("session a stands at 1, not at 2"))
        await until(lambda: rig.repair.signs == ["session_behind"])
        assert (rig.l1.get("a"), rig.l1.get("x")) == (None, None)


async def test_records_that_come_during_a_drain_are_left_to_the_next_owner() -> None:
    """O: they would run after the drain, under the old right, beside the next owner's turn."""
    async with working("a", drain=5.0) as rig:
        revoking = asyncio.create_task(rig.dispatcher.revoked([P0]))
        await asyncio.sleep(0)
        rig.consumer.produce(P0, "b")
        rig.feed(P0)
        await rig.turns.end(0)
        await revoking
        assert rig.turns.offsets == [0]


async def test_a_turn_of_an_earlier_assignment_marks_nothing_done_in_the_later_one() -> None:
    """C: its record was read again, and counts when it ran under the new right."""
    async with working("a", "b") as rig:
        await rig.turns.end(0, NotOwner("a", 99))
        await until(lambda: P0 in rig.dispatcher.assignments)
        rig.feed(P0)
        await rig.turns.end(1)
        await rig.turns.end(0)
        await until(lambda: rig.turns.offsets.count(1) == 2)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 1}
        await rig.turns.end(1)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 2}
