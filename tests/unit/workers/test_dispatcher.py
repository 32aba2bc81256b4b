"""The dispatcher at work: lanes, commits, pauses, draining."""

import asyncio

from aiokafka.errors import KafkaConnectionError

from store.errors import StoreUnavailable
from store.memory import MemorySessionStore
from tests.unit.workers.dispatch_rig import P0, P1, Rig, working
from tests.unit.workers.fakes import inbound, until


async def test_only_the_contiguous_prefix_is_committed_in_store_and_group() -> None:
    """C"""
    async with working("a", "b", "c") as rig:
        await rig.turns.end(1)
        await rig.dispatcher.commit()
        assert rig.consumer.commits == []
        await rig.turns.end(0)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 2}
        assert await rig.store.progress([str(P0)]) == {str(P0): 2}
        await rig.dispatcher.commit()
        assert len(rig.consumer.commits) == 1


async def test_one_session_runs_in_order_and_others_beside_it() -> None:
    """O, P"""
    async with working("a", "a", "b") as rig:
        assert rig.turns.offsets == [0, 2]
        await rig.turns.end(0)
        await until(lambda: rig.turns.offsets == [0, 2, 1])


async def test_a_commit_that_fails_is_made_up_for_later() -> None:
    async with working("a") as rig:
        rig.consumer.refusals.append(KafkaConnectionError())
        await rig.turns.end(0)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {}
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 1}


async def test_the_group_is_never_ahead_of_what_the_store_knows() -> None:
    """DESIGN §4: progress behind the group's offsets means that the store lost writes."""

    class Away(MemorySessionStore):
        async def save_progress(self, offsets: object) -> None:
            raise StoreUnavailable("away")

    rig = Rig(Away(ttl_seconds=60))
    rig.consumer.produce(P0, "a")
    await rig.assign(P0)
    rig.turns.hold = False
    rig.feed(P0)
    await until(lambda: rig.turns.offsets == [0])
    await rig.dispatcher.commit()
    assert rig.consumer.commits == []


async def test_a_revocation_drains_what_was_taken_and_commits_it() -> None:
    """Also what waits in a lane: dropped, it would hold back the commit of what is done behind it."""
    async with working("a", "a", "b", drain=5.0) as rig:
        revoking = asyncio.create_task(rig.dispatcher.revoked([P0]))
        await rig.turns.end(0)
        await rig.turns.end(2)
        await rig.turns.end(1)
        await revoking
        assert rig.turns.offsets == [0, 2, 1]
        assert rig.consumer.committed == {P0: 3}
        assert rig.dispatcher.assignments == {}
        assert rig.dispatcher.open_records == 0


async def test_a_long_queue_does_not_hold_up_a_revocation() -> None:
    """P: what runs may end; what waits behind it is left to the next owner."""
    async with working("a", "a", "b", drain=60.0, queue_drain=0.01) as rig:
        revoking = asyncio.create_task(rig.dispatcher.revoked([P0]))
        await asyncio.sleep(0.05)
        await rig.turns.end(0)
        await rig.turns.end(2)
        await revoking
        assert rig.turns.offsets == [0, 2]
        assert rig.consumer.committed == {P0: 1}


async def test_a_turn_that_is_too_slow_is_cancelled_and_not_committed() -> None:
    """C, L: it is redelivered to whoever is next."""
    async with working("a", "b") as rig:
        await rig.turns.end(1)
        await rig.dispatcher.revoked([P0])
        assert rig.turns.cancelled == [0]
        assert rig.consumer.committed == {}


async def test_a_partition_pauses_at_its_bound_and_goes_on_below_half() -> None:
    """P: and only that partition."""
    rig = Rig(max_open=4)
    rig.consumer.produce(P0, *"abcd")
    rig.consumer.produce(P1, "x")
    await rig.assign(P0, P1)
    rig.feed(P0, P1)
    assert rig.consumer.paused == {P0}
    await until(lambda: len(rig.turns.started) == 5)
    for offset in (1, 2, 3):
        await rig.turns.end(offset)
    assert rig.consumer.paused == {P0}, "a partition whose oldest record is open has room for nothing"
    await rig.turns.end(0)
    assert rig.consumer.paused == set()


async def test_a_cancel_is_known_before_its_lane_comes_to_it() -> None:
    rig = Rig()
    rig.consumer.produce(P0, "a")
    rig.consumer.logs[P0].append(inbound("a", 1, at=P0, id="c1", type="cancel", target="a-0"))
    await rig.assign(P0)
    rig.feed(P0)
    assert rig.cancellations.requested("a", "a-0")


async def with_a_cancel_behind_its_message() -> Rig:
    rig = Rig()
    rig.consumer.produce(P0, "a")
    rig.consumer.logs[P0].append(inbound("a", 1, at=P0, id="c1", type="cancel", target="a-0"))
    await rig.assign(P0)
    rig.feed(P0)
    assert rig.cancellations.requested("a", "a-0")
    return rig


async def test_a_cancel_is_forgotten_when_its_lane_came_past_it() -> None:
    """L: an id that comes again, as from the dead letter topic, is answered."""
    rig = await with_a_cancel_behind_its_message()
    await rig.turns.end(0)
    await until(lambda: rig.turns.offsets == [0, 1])
    assert rig.cancellations.requested("a", "a-0"), "it is not past yet"
    await rig.turns.end(1)
    assert not rig.cancellations.requested("a", "a-0")


async def test_a_cancel_that_is_left_to_the_next_owner_is_forgotten_here() -> None:
    rig = await with_a_cancel_behind_its_message()
    await rig.dispatcher.revoked([P0])
    assert not rig.cancellations.requested("a", "a-0")


async def test_a_cancel_of_a_partition_that_is_let_go_is_forgotten_until_it_is_read_again() -> None:
    rig = await with_a_cancel_behind_its_message()
    rig.dispatcher.refuse([P0], RuntimeError("broken"))
    assert not rig.cancellations.requested("a", "a-0")


async def test_a_crashed_lane_holds_the_commit_and_lets_others_run() -> None:
    """C, P"""
    async with working("a", "b") as rig:
        await rig.turns.end(0, RuntimeError("no dead letter could be written"))
        await rig.turns.end(1)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {}


async def test_after_stop_nothing_is_accepted() -> None:
    async with working("a", drain=5.0) as rig:
        stopping = asyncio.create_task(rig.dispatcher.stop())
        await rig.turns.end(0)
        await stopping
        assert rig.consumer.committed == {P0: 1}
        rig.consumer.produce(P0, "b")
        rig.feed(P0)
        await rig.dispatcher.assigned([P0])
        assert rig.turns.offsets == [0]
