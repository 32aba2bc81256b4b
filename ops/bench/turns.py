"""`supportstream bench turns`: what a turn costs in the product, next to a hand-written floor.

Both sides run by turns against the same Apache Kafka and Redis on this machine, each time as one fresh
ingress and one fresh worker process on fresh topics, under the same load generator. A ratio is the
product's median over the rounds ÷ the floor's, so that no single disturbed round decides.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from ops.bench.report import Report
from ops.bench.retrieval import measure_encoding, measure_retrieval
from ops.bench.services import Services, local_services
from ops.bench.side_figures import CLIENTS, WARM_UP_S, Figures, measure_side, medians
from ops.bench.sides import Side, floor, product
from ops.local.kafka import KAFKA_VERSION

# A broker whose JVM has compiled nothing yet is several times slower: those seconds are nobody's figures.
BROKER_WARM_UP_S = 15.0

Progress = Callable[[int, int, str], None]
"""Told before each step: steps done, steps in all, what comes now."""


def run(rounds: int, seconds: float, with_retrieval: bool, progress: Progress) -> Report:
    """Measure `rounds` rounds of floor and product, `seconds` per measurement, then retrieval if asked for.

    One side in one round takes twice `seconds` and 8 more to start and warm up, retrieval about a minute.

    Raises ServerError when something can't be started (the message ends with its log), BenchError when a side
    answers wrongly or not at all.
    """
    steps = 1 + 2 * rounds + 2 * with_retrieval
    with local_services() as services:
        progress(0, steps, "warming up the broker")
        measure_side(services, floor(), BROKER_WARM_UP_S / 2)
        report = compare(
            services,
            floor(),
            product("null"),
            rounds,
            seconds,
            lambda done, side: progress(1 + done, steps, f"{side}, round {1 + done // 2} of {rounds}"),
        )
        if with_retrieval:
            progress(steps - 2, steps, "retrieval in the product")
            retrieval = measure_retrieval(services, product("extractive"), seconds)
            progress(steps - 1, steps, "the embedding model alone")
            add_retrieval(report, retrieval, measure_encoding(int(retrieval["turns"])))
    progress(steps, steps, "done")
    return report


def compare(
    services: Services,
    baseline: Side,
    candidate: Side,
    rounds: int,
    seconds: float,
    progress: Callable[[int, str], None],
) -> Report:
    """The report of `candidate` against `baseline`, which are measured by turns.

    `progress` is told before each measurement how many are done and which side comes.
    """
    measured: dict[str, list[Figures]] = {"floor": [], "product": []}
    for number in range(rounds):
        for index, (column, side) in enumerate((("floor", baseline), ("product", candidate))):
            progress(2 * number + index, side.name)
            measured[column].append(measure_side(services, side, seconds))
    floor_figures, product_figures = medians(measured["floor"]), medians(measured["product"])
    throughput = f"turns_per_s_{CLIENTS}_clients"
    return Report(
        ratios={
            "p50_1_client": product_figures["p50_ms_1_client"] / floor_figures["p50_ms_1_client"],
            "p99_1_client": product_figures["p99_ms_1_client"] / floor_figures["p99_ms_1_client"],
            throughput: product_figures[throughput] / floor_figures[throughput],
        },
        figures={
            "conditions": conditions(rounds, seconds),
            "floor": floor_figures,
            "product": product_figures,
            "rounds": measured,
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
