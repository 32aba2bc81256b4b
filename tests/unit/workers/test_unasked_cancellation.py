"""FAILS on main: a CancelledError that nothing asked for (aiokafka's Fetcher.close raises it out of consumer.stop() while a
fetch waits after an error) ends the preparation of a partition, or a background task, without a word."""

import asyncio

from tests.unit.workers.conftest import *  # noqa
from tests.unit.workers.dispatch_rig import P0, FakeRepair, Rig
from tests.unit.workers.fakes import until
from workers import app
from workers.app import GroupSettings, WorkerApp
from workers.observer import SilentObserver


async def test_a_preparation_survives_a_cancellation_that_was_not_asked_for():
    """L, H"""

    class Cancelled(FakeRepair):
        async def run(self, partitions, fence):
            await super().run(partitions, fence)
            if len(self.repaired) == 1:
                raise asyncio.CancelledError

    rig = Rig(repair=Cancelled())
    rig.consumer.produce(P0, "a")
    await rig.dispatcher.assigned([P0])
    await until(lambda: P0 in rig.dispatcher.assignments)


async def test_a_background_task_survives_a_cancellation_that_was_not_asked_for(monkeypatch):
    """H: without its commit loop a worker would be alive and never commit."""
    monkeypatch.setattr(app, "RESTART_PAUSE_SECONDS", 0.001)
    made = WorkerApp(GroupSettings("127.0.0.1:1", ("t",), "g"), SilentObserver())
    runs = 0

    async def run():
        nonlocal runs
        runs += 1
        if runs == 1:
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    task = made._supervised("commit-regularly", run)
    await until(lambda: runs == 2 or made.failed.done())
    task.cancel()
