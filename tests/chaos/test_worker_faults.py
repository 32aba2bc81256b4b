"""Workers die, freeze, stall and are told to stop, anywhere in a turn."""

from typing import get_args

import pytest

from tests.chaos.conftest import NewExperiment
from tests.chaos.faulty import Failpoint, Faults

WHERE: dict[Failpoint, str] = {
    "before_commit_turn": "before the compare-and-set",
    "after_commit_turn": "between compare-and-set and publish",
    "after_publish": "between publish and commit",
    "before_group_commit": "between the store's progress and the group's commit",
}


@pytest.mark.parametrize("point", get_args(Failpoint))
async def test_a_worker_is_killed_in_a_turn(experiment: NewExperiment, point: Failpoint) -> None:
    async with experiment(f"worker: kill -9 {WHERE[point]}") as it:
        after = it.rng.randint(2, 4) if point == "before_group_commit" else it.rng.randint(150, 400)
        faults = Faults(kill_at=point, kill_after=after)
        victim, other = it.pipeline.worker(**faults.setting()), it.pipeline.worker()
        async with it.fault():
            await it.start(workers=[victim, other], ingresses=[it.pipeline.ingress()])
            await it.killed_itself(victim)
            await it.traffic.answered_more(300)
        await it.finish()
