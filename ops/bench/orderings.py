"""Turns of the product when the partition gives the order, next to a lock for each turn (`ORDERING=lock`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ops.bench.services import local_services
from ops.bench.side_figures import CLIENTS, Figures, measure_many
from ops.bench.sides import Side, product, running
from ops.bench.turns import BROKER_WARM_UP_S


def under_lock() -> Side:
    """The product with every turn under its session's lock."""
    side = product("null")
    return replace(side, name="lock", settings={**side.settings, "ORDERING": "lock"})


def measure_orderings(rounds: int, seconds: float, progress: Callable[[int], None]) -> list[Figures]:
    """Turns a second with 200 clients in each round, under lock and by partition, `seconds` for each.

    Both run at once and are measured by turns. `progress` is told before each round how many are done.

    Raises ServerError when something can't be started, BenchError when a side answers wrongly or not at all.
    """
    with (
        local_services() as services,
        running(product("null"), services) as by_partition,
        running(under_lock(), services) as by_lock,
    ):
        measure_many(services, by_partition, BROKER_WARM_UP_S)
        measured: list[Figures] = []
        for number in range(rounds):
            progress(number)
            # Who goes first changes, so that a drift of the machine favours nobody.
            order = (by_partition, by_lock) if number % 2 == 0 else (by_lock, by_partition)
            figures = {side: measure_many(services, side, seconds) for side in order}
            measured.append(
                {
                    "partition_turns_per_s": figures[by_partition][f"turns_per_s_{CLIENTS}_clients"],
                    "lock_turns_per_s": figures[by_lock][f"turns_per_s_{CLIENTS}_clients"],
                }
            )
    return measured
