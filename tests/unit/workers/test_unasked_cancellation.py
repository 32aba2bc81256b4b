"""A CancelledError that was not asked for: aiokafka raises one out of `stop`."""

import asyncio
from collections.abc import Iterable

import pytest

from store.protocol import Fence
from tests.unit.workers.dispatch_rig import P0, FakeRepair, Rig
from tests.unit.workers.fakes import until
from workers import app
from workers.app import GroupSettings, WorkerApp
from workers.observer import SilentObserver
from workers.records import Partition


async def test_a_preparation_survives_it() -> None:
    """L, H"""

    class CancelledOnce(FakeRepair):
        async def run(self, partitions: Iterable[Partition], fence: Fence) -> None:
            await super().run(partitions, fence)
            if len(self.repaired) == 1:
                raise asyncio.CancelledError

    rig = Rig(repair=CancelledOnce())
    rig.consumer.produce(P0, "a")
    await rig.dispatcher.assigned([P0])
    await until(lambda: P0 in rig.dispatcher.assignments)


async def test_a_background_task_survives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """H: without its commit loop a worker would be alive and never commit."""
    monkeypatch.setattr(app, "RESTART_PAUSE_SECONDS", 0.001)
    made = WorkerApp(GroupSettings("127.0.0.1:1", ("t",), "g"), SilentObserver())
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    task = made._supervised("commit-regularly", run)
    await until(lambda: runs == 2)
    task.cancel()
