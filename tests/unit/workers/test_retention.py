"""What retention removed before it was read is said and counted; what a log merely skips is not."""

import asyncio

from structlog.typing import EventDict

from tests.unit.workers.dispatch_rig import P0, Rig
from tests.unit.workers.fakes import inbound, until


async def test_records_removed_beyond_the_committed_offset_are_counted(logs: list[EventDict]) -> None:
    rig = Rig()
    rig.consumer.produce(P0, *["a"] * 10)
    rig.consumer.committed = {P0: 2}
    rig.consumer.begins = {P0: 6}
    await rig.assign(P0)
    assert rig.observer.count == 4
    [told] = [entry for entry in logs if entry["event"] == "records_lost_to_retention"]
    assert (told["first_offset"], told["count"]) == (2, 4)


async def test_a_group_that_never_read_has_lost_nothing() -> None:
    rig = Rig()
    rig.consumer.produce(P0, *["a"] * 10)
    rig.consumer.begins = {P0: 6}
    await rig.assign(P0)
    assert rig.observer.count == 0


async def test_records_removed_while_a_worker_was_behind_are_counted() -> None:
    rig = Rig()
    await rig.assign(P0)
    rig.dispatcher.accept([inbound("a", 0, at=P0, text="Hello")])
    rig.consumer.begins = {P0: 50}
    rig.dispatcher.accept([inbound("a", 50, at=P0, text="Hello")])
    await until(lambda: rig.observer.count == 49)


async def test_offsets_that_the_log_skips_are_nobodys_loss() -> None:
    """Transaction markers take an offset, too."""
    rig = Rig()
    await rig.assign(P0)
    rig.dispatcher.accept([inbound("a", 0, at=P0, text="Hello"), inbound("a", 3, at=P0, text="Hello")])
    await asyncio.sleep(0.01)
    assert rig.observer.count == 0
