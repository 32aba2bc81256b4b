"""Giving the topics more partitions while everything runs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ops.errors import OpsError, UsageError
from ops.kafka.topics import TopicAdmin, TopicState
from schemas.partition import home_partition
from schemas.topics import TopicNames, TopicSpec

_SAMPLE = 10_000


@dataclass(frozen=True, slots=True)
class GrowthPlan:
    """What would be done, in this order."""

    first: list[TopicState]
    """Topics that workers write to: their new partitions must be read by every ingress before the first reply."""
    last: list[TopicState]
    """The inbound topic, if it has not so many partitions yet."""
    partitions: int
    moving: float
    """The share of sessions that get another home partition."""

    @property
    def steps(self) -> list[TopicState]:
        return [*self.first, *self.last]


def plan_growth(names: TopicNames, states: list[TopicState], partitions: int) -> GrowthPlan:
    """`states` are those of the topics that are divided by session, as the broker has them.

    Raises:
        OpsError: a topic is missing, or all have so many partitions.
        UsageError: one has more.
    """
    for state in states:
        if not state.partitions:
            raise OpsError(f"{state.name} is missing: supportstream topics create")
        if state.partitions > partitions:
            raise UsageError(
                f"{state.name} has {state.partitions} partitions, more than {partitions}; Kafka takes none away"
            )
    growing = [state for state in states if state.partitions < partitions]
    if not growing:
        raise OpsError(f"All topics have {partitions} partitions.")
    inbound = next(state for state in states if state.name == names.inbound)
    return GrowthPlan(
        first=[state for state in growing if state is not inbound],
        last=[state for state in growing if state is inbound],
        partitions=partitions,
        moving=_share_that_moves(inbound.partitions, partitions),
    )


async def grow(admin: TopicAdmin, plan: GrowthPlan, notice_seconds: float, tell: Callable[[str], None]) -> None:
    """Carries the plan out. `notice_seconds` is how long processes take to see new partitions. Interrupted, it is
    simply run again.

    Raises:
        OpsError: the broker refused.
    """
    for state in plan.first:
        await admin.grow(state.name, plan.partitions)
        tell(f"{state.name} has {plan.partitions} partitions")
    if plan.first and plan.last:
        tell(f"waiting {notice_seconds:g} s, until every ingress reads the new partitions")
        await asyncio.sleep(notice_seconds)
    for state in plan.last:
        await admin.grow(state.name, plan.partitions)
        tell(f"{state.name} has {plan.partitions} partitions")


def divided_by_session(names: TopicNames, specs: list[TopicSpec]) -> list[TopicSpec]:
    """Those of the topics that share the inbound topic's partition count."""
    return [spec for spec in specs if spec.name in (names.replies, names.deltas, names.dlq, names.inbound)]


def _share_that_moves(before: int, after: int) -> float:
    moved = sum(home_partition(f"s-{n}", before) != home_partition(f"s-{n}", after) for n in range(_SAMPLE))
    return moved / _SAMPLE
