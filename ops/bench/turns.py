"""`supportstream bench turns`: what a turn costs in the product, next to a hand-written floor.

Both sides run at once against the same Apache Kafka and Redis on this machine, each as one ingress and one worker
process on topics of its own. The load generator goes to them by turns, in many short rounds: a machine that is slow
for a minute is slow for both. A ratio is the median over the rounds of product ÷ floor within one round.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from ops.bench.report import Report
from ops.bench.retrieval import measure_encoding, measure_retrieval
from ops.bench.services import Services, local_services
from ops.bench.side_figures import CLIENTS, WARM_UP_S, Figures, measure_many, measure_one, medians
from ops.bench.sides import RunningSide, floor, product, running
from ops.local.kafka import KAFKA_VERSION

# A broker whose JVM has compiled nothing yet is several times slower: those seconds are nobody's figures.
BROKER_WARM_UP_S = 15.0
# Long enough that starting and ending with empty queues doesn't count.
RETRIEVAL_S = 10.0
RATIOS = {
    "p50_1_client": "p50_ms_1_client",
    "p99_1_client": "p99_ms_1_client",
    f"turns_per_s_{CLIENTS}_clients": f"turns_per_s_{CLIENTS}_clients",
}
"""Which figure each ratio compares."""

Progress = Callable[[int, int, str], None]
"""Told before each step: steps done, steps in all, what comes now."""


def run(rounds: int, seconds: float, with_retrieval: bool, progress: Progress) -> Report:
    """Measure `rounds` rounds of floor and product, `seconds` per measurement, then retrieval if asked for.

    A round takes four times `seconds` and as many warm-ups, the start about half a minute, retrieval a minute.

    Raises ServerError when something can't be started (the message ends with its log), BenchError when a side
    answers wrongly or not at all.
    """
    steps = 1 + rounds + 2 * with_retrieval
    with local_services() as services:
        progress(0, steps, "starting both sides, warming up the broker")
        with running(floor(), services) as baseline, running(product("null"), services) as candidate:
            measure_many(services, baseline, BROKER_WARM_UP_S)
            report = compare(
                services,
                baseline,
                candidate,
                rounds,
                seconds,
                lambda done: progress(1 + done, steps, f"floor and product, round {1 + done} of {rounds}"),
            )
        if with_retrieval:
            progress(steps - 2, steps, "retrieval in the product")
            retrieval = measure_retrieval(services, product("extractive"), RETRIEVAL_S)
            progress(steps - 1, steps, "the embedding model alone")
            add_retrieval(report, retrieval, measure_encoding(int(retrieval["turns"])))
    progress(steps, steps, "done")
    return report


def compare(
    services: Services,
    baseline: RunningSide,
    candidate: RunningSide,
    rounds: int,
    seconds: float,
    progress: Callable[[int], None],
) -> Report:
    """The report of `candidate` against `baseline`. `progress` is told before each round how many are done."""
    floors: list[Figures] = []
    products: list[Figures] = []
    for number in range(rounds):
        progress(number)
        # Who goes first changes, so that a drift of the machine favours nobody.
        order = (baseline, candidate) if number % 2 == 0 else (candidate, baseline)
        one = {side: measure_one(services, side, seconds) for side in order}
        many = {side: measure_many(services, side, seconds) for side in order}
        floors.append(one[baseline] | many[baseline])
        products.append(one[candidate] | many[candidate])
    pairs = [
        {name: product_figures[name] / floor_figures[name] for name in RATIOS.values()}
        for floor_figures, product_figures in zip(floors, products, strict=True)
    ]
    ratios = medians(pairs)
    return Report(
        ratios={ratio: ratios[figure] for ratio, figure in RATIOS.items()},
        figures={
            "conditions": conditions(rounds, seconds),
            "floor": medians(floors),
            "product": medians(products),
            "rounds": {"floor": floors, "product": products},
        },
    )


def add_retrieval(report: Report, retrieval: Figures, encode_texts_per_s: float) -> None:
    """Add the product's retrieval under load and what the embedding model alone reaches."""
    turns_per_s = retrieval[f"turns_per_s_{CLIENTS}_clients"]
    report.ratios["retrieval_turns_per_s"] = turns_per_s / encode_texts_per_s
    report.figures["retrieval"] = {**retrieval, "encode_alone_texts_per_s": encode_texts_per_s}


def conditions(rounds: int, seconds: float) -> dict[str, object]:
    """What a reader must know to compare two reports."""
    return {
        "rounds": rounds,
        "seconds": seconds,
        "warm_up_seconds": WARM_UP_S,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
    }
