"""A worker is restarted when it stands still by itself, not when what it needs is away."""

import time
from typing import cast

import pytest

from ops.errors import OpsError
from ops.processes.worker import RunningWorker
from schemas.publishing import BrokerUnavailable
from store.errors import StoreUnavailable
from store.l1 import L1Cache
from tests.unit.workers.dispatch_rig import P0, Rig, working
from workers.app import WorkerApp
from workers.dispatch import Dispatcher


class Standing:
    """A dispatcher that has had open records for a while."""

    open_records = 3

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def stalled_seconds(self, now: float) -> float:
        return self._seconds


def worker(seconds: float, *, kafka: Exception | None = None, store: Exception | None = None) -> RunningWorker:
    async def answer(error: Exception | None) -> None:
        if error is not None:
            raise error

    return RunningWorker(
        cast(Dispatcher, Standing(seconds)),
        cast(WorkerApp, None),
        dict,
        lambda: answer(kafka),
        L1Cache(size=1, ttl_seconds=1),
        lambda: answer(store),
        300.0,
        lambda: answer(None),
    )


async def test_who_makes_progress_lives() -> None:
    await worker(299.0).live()


async def test_who_stands_still_although_everything_answers_is_to_be_restarted() -> None:
    with pytest.raises(OpsError, match="3 records are open and none was committed for 301 s"):
        await worker(301.0).live()


async def test_a_restart_would_not_bring_kafka_or_redis_back() -> None:
    await worker(301.0, kafka=BrokerUnavailable("away")).live()
    await worker(301.0, store=StoreUnavailable("away")).live()


async def test_standing_still_is_counted_from_the_last_commit_and_only_with_open_records() -> None:
    async with working("a", "b") as rig:
        begun = time.monotonic()
        assert rig.dispatcher.stalled_seconds(begun + 100) > 99
        await rig.turns.end(0)
        await rig.dispatcher.commit()
        assert rig.dispatcher.stalled_seconds(time.monotonic()) < 1
        await rig.turns.end(1)
        await rig.dispatcher.commit()
        assert rig.dispatcher.stalled_seconds(begun + 100) == 0
        await rig.dispatcher.revoked([P0])
    Rig.made.clear()
