"""The figures of one side in one round: latency with one customer, throughput and cost with many."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ops.bench.load import Plan
from ops.bench.measure import Sample, measure
from ops.bench.services import Services
from ops.bench.sides import RunningSide, Side, running

CLIENTS = 200
WARM_UP_S = 2.0
MIB = 1024 * 1024

Figures = dict[str, float]


def measure_side(services: Services, side: Side, seconds: float) -> Figures:
    """Start `side`, measure it for `seconds` with one customer and for `seconds` with 200, stop it."""
    with running(side, services) as started:
        single = measure_running(services, started, Plan(started.port, 1, WARM_UP_S, seconds))
        many = measure_running(services, started, Plan(started.port, CLIENTS, WARM_UP_S, seconds))
    return {
        "p50_ms_1_client": single.load.p50_ms,
        "p99_ms_1_client": single.load.p99_ms,
        "turns_1_client": single.load.turns,
        **figures_of_many(many),
    }


def measure_running(services: Services, started: RunningSide, plan: Plan) -> Sample:
    """Carry out `plan` against a running side, watching it and the shared servers."""
    return measure(
        plan,
        {
            "ingress": started.ingress_pid,
            "worker": started.worker_pid,
            "kafka": services.kafka_pid,
            "redis": services.redis_pid,
        },
    )


def figures_of_many(sample: Sample) -> Figures:
    """Throughput, latency under load, CPU time per turn and memory of a sample with many customers."""
    return {
        f"turns_per_s_{CLIENTS}_clients": sample.load.turns_per_s,
        f"p50_ms_{CLIENTS}_clients": sample.load.p50_ms,
        f"p99_ms_{CLIENTS}_clients": sample.load.p99_ms,
        **{f"{process}_cpu_ms_per_turn": sample.cpu_ms_per_turn(process) for process in sample.cpu_s},
        "cpus_lost_to_others": sample.cpus_lost_to_others,
        **{f"{process}_rss_mib": sample.rss_bytes[process] / MIB for process in ("ingress", "worker")},
    }


def medians(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure over the rounds."""
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}
