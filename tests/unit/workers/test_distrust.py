"""A store that may have lost writes is repaired before anything else is done (DESIGN §5, "When Redis forgets")."""

import asyncio
import time
from collections.abc import Callable, Iterable

import pytest

from store.errors import StoreReplaced
from store.memory import MemorySessionStore
from store.protocol import Fence
from tests.unit.workers.dispatch_rig import P0, FakeConsumer, FakeRepair, Rig, working
from tests.unit.workers.fakes import until
from workers.errors import StoreForgot, WorkerError
from workers.incarnations import Incarnations
from workers.records import Partition
from workers.rights import Rights


@pytest.mark.parametrize(
    ("error", "sign"),
    [(StoreForgot("session a stands at 1, not at 2"), "session_behind"), (StoreReplaced("another"), "server_replaced")],
)
async def test_a_turn_that_finds_a_loss_makes_its_partitions_be_repaired_and_read_again(
    error: WorkerError, sign: str
) -> None:
    """R, L: by either sign the record is not done, and is answered after the repair."""
    async with working("a", "b") as rig:
        assert rig.repair.repaired == [{P0}]
        await rig.turns.end(0, error)
        await until(lambda: len(rig.repair.repaired) == 2 and P0 in rig.dispatcher.assignments)
        assert rig.repair.signs == [sign]
        rig.feed(P0)
        await until(lambda: rig.turns.offsets == [0, 1, 0, 1])
        await rig.turns.end(1)
        await rig.turns.end(0)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 2}


async def test_no_turn_is_under_way_while_the_store_is_repaired() -> None:
    """U: a turn that tries again would find an older session, and write after it."""
    async with working("a", "b") as rig:
        under_repair: list[int] = []
        rig.repair.on_run = lambda: under_repair.append(len(rig.turns.running))
        await rig.turns.end(0, StoreReplaced("another"))
        await until(lambda: P0 in rig.dispatcher.assignments)
        assert rig.turns.cancelled == [1]
        assert rig.running_when_settled == [0], "what it had sent is waited for after it ended"
        assert under_repair == [0]


async def test_a_commit_that_finds_another_server_commits_nothing_before_the_repair() -> None:
    """C"""

    class Replaced(MemorySessionStore):
        replaced = False

        async def save_progress(self, offsets: object) -> None:
            if self.replaced:
                raise StoreReplaced("another")

        async def accept_server(self) -> str:
            self.replaced = False
            return ""

    store = Replaced(ttl_seconds=60)
    rig = Rig(store)
    rig.consumer.produce(P0, "a")
    await rig.assign(P0)
    rig.feed(P0)
    await rig.turns.end(0)
    store.replaced = True
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {}
    assert rig.repair.signs == ["server_replaced"]
    await until(lambda: P0 in rig.dispatcher.assignments)
    assert len(rig.repair.repaired) == 2
    await rig.dispatcher.stop()


async def test_many_turns_that_find_the_same_loss_cause_one_repair() -> None:
    async with working("a", "b", "c") as rig:
        await until(lambda: len(rig.turns.running) == 3)
        for _, turn in rig.turns.running:
            turn.set_exception(StoreReplaced("another"))
        await until(lambda: P0 in rig.dispatcher.assignments)
        await asyncio.sleep(0)
        assert rig.repair.signs == ["server_replaced"]


async def test_progress_behind_the_group_s_offsets_is_a_loss() -> None:
    """The second sign: what the group has committed, the store knew before."""
    rig = Rig()
    rig.consumer.produce(P0, "a", "b")
    rig.consumer.committed[P0] = 2
    await rig.assign(P0)
    assert rig.repair.signs == ["progress_behind"]
    assert await rig.store.progress([str(P0)]) == {str(P0): 2}
    assert rig.dispatcher.assignments[P0].done_below == 2
    await rig.dispatcher.stop()


async def test_a_loss_that_is_found_in_mid_revocation_prepares_nothing_that_is_revoked() -> None:
    """L: two preparations of one partition would count its open records anew, and commit past them."""
    async with working("a", "b", "c", drain=5.0) as rig:
        repaired = len(rig.repair.repaired)
        revoking = asyncio.create_task(rig.dispatcher.revoked([P0]))
        await rig.turns.end(0, StoreReplaced("another"))
        await revoking
        for _ in range(50):
            await asyncio.sleep(0)
        assert rig.consumer.committed == {}
        assert rig.dispatcher.assignments == {}
        assert len(rig.repair.repaired) == repaired
        await rig.assign(P0)
        rig.feed(P0)
        for offset in range(3):
            await rig.turns.end(offset)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 3}


async def test_of_two_preparations_the_newer_one_counts() -> None:
    """L: a store that is replaced again while the partition is being prepared."""
    gate = asyncio.Event()

    class Slow(FakeRepair):
        async def run(self, partitions: Iterable[Partition], fence: Fence) -> None:
            await super().run(partitions, fence)
            if len(self.repaired) == 2:
                await gate.wait()

    async with working("a", "a", repair=Slow()) as rig:
        await rig.turns.end(0, StoreReplaced("another"))
        await until(lambda: len(rig.repair.repaired) == 2)
        # The first preparation waits; another one overtakes it.
        await rig.assign(P0)
        rig.feed(P0)
        first = rig.dispatcher.assignments[P0]
        gate.set()
        await rig.turns.end(0)
        await rig.turns.end(1)
        assert rig.dispatcher.assignments[P0] is first
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 2}


class Restarted(MemorySessionStore):
    """A store that has a name."""

    name = "first"

    async def accept_server(self) -> str:
        return self.name


async def test_who_gets_a_partition_as_the_store_is_replaced_waits_for_the_former_owners_last_replies() -> None:
    """O, D: what the former owner had committed is lost, and may come to the topic only now."""
    store = Restarted(ttl_seconds=60)
    rights, repair = rights_on(store, publish_seconds=0.3)
    for name, moved_ago, waits in (
        ("first", 0.0, True),
        ("first", 0.0, False),  # repaired before, and not replaced since
        ("second", 10.0, False),  # nobody else had it
        ("third", 0.0, True),
    ):
        store.name = name
        began = time.monotonic()
        await rights.obtain({P0: began - moved_ago}, accept_server=True)
        assert (time.monotonic() - began >= 0.25) is waits, name
    assert len(repair.repaired) == 4


async def test_nobody_waits_longer_than_replies_take_since_the_store_was_replaced() -> None:
    """However often the partition moves meanwhile."""
    store = Restarted(ttl_seconds=60)
    await store.save_progress({"first seen|first": 1_000})
    rights, _ = rights_on(store, publish_seconds=30.0, clock=lambda: 1_029.9)
    async with asyncio.timeout(5.0):
        await rights.obtain({P0: time.monotonic()}, accept_server=True)


def rights_on(
    store: MemorySessionStore, *, publish_seconds: float, clock: Callable[[], float] = time.time
) -> tuple[Rights, FakeRepair]:
    consumer, repair = FakeConsumer(), FakeRepair()
    consumer.produce(P0, *"abcdef")
    consumer.committed[P0] = 5

    async def nothing(assigned: object) -> None: ...

    rights = Rights(store, consumer, repair, Incarnations(store), nothing, publish_seconds=publish_seconds, clock=clock)
    return rights, repair
