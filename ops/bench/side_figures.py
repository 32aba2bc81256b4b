"""The figures of a side: latency with one customer, throughput and cost with many."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ops.bench.load import Plan
from ops.bench.measure import Sample, measure
from ops.bench.services import Services
from ops.bench.sides import RunningSide

CLIENTS = 200
WARM_UP_S = 1.0
MIB = 1024 * 1024

Figures = dict[str, float]


def measure_one(services: Services, started: RunningSide, seconds: float) -> Figures:
    """Latency with one customer, over `seconds`."""
    sample = measure_running(services, started, Plan(started.port, 1, WARM_UP_S, seconds))
    return {
        "p50_ms_1_client": sample.load.p50_ms,
        "p99_ms_1_client": sample.load.p99_ms,
        "turns_1_client": sample.load.turns,
    }


def measure_many(services: Services, started: RunningSide, seconds: float) -> Figures:
    """Throughput and cost with 200 customers, over `seconds`."""
    return figures_of_many(measure_running(services, started, Plan(started.port, CLIENTS, WARM_UP_S, seconds)))


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
