"""`supportstream bench replay`: sessions rebuilt from the reply topic into an empty Redis.

Conversations of 20 turns, 2,000 of them under way at a time, in 12 partitions; events of about 1,000 bytes. Each side
is a process of its own, from its start to its end: the floor (`ops.bench.floor_replay`) is a bare consumer that writes
the same bytes to the same Redis; the product is `supportstream replay --execute`, which decodes and folds every event,
compares each session with what is live and puts it in its place. Memory is the peak over the command and the processes
that read for it.
"""

from __future__ import annotations

import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import orjson
import psutil

from ops.bench.measure import BenchError
from ops.bench.report import Report
from ops.bench.sampling import usage
from ops.bench.services import Services, local_services
from ops.local.kafka import KAFKA_VERSION
from ops.local.redis_call import call
from schemas.topics import TopicNames

MEMORY_SHARE = 10
"""The memory of a rebuild is compared with one of a topic so many times smaller."""
_POLL_S = 0.05

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Run:
    """One command, from its start to its end."""

    seconds: float
    peak_rss_bytes: int
    output: dict[str, Any]


def run(records: int, rounds: int, progress: Progress) -> Report:
    """Floor and product take turns `rounds` times.

    Raises:
        ServerError: Kafka or Redis can't be started.
        BenchError: a run did not rebuild all sessions.
    """
    steps = 5 + 2 * rounds
    with local_services() as services:
        progress(0, steps, f"filling {records // MEMORY_SHARE} records")
        with _filled(services, records // MEMORY_SHARE) as (small, sessions):
            progress(1, steps, "rebuilding the small topic")
            small_run = _rebuild(services, small, sessions)
        progress(2, steps, f"filling {records} records")
        with _filled(services, records) as (environment, sessions):
            floors, products = [], []
            for number in range(rounds):
                progress(3 + 2 * number, steps, f"floor, round {number + 1} of {rounds}")
                floors.append(_floor(services, environment, records))
                progress(4 + 2 * number, steps, f"replay, round {number + 1} of {rounds}")
                products.append(_rebuild(services, environment, sessions))
            progress(steps - 2, steps, "writing snapshots")
            writing = _measure([*_REPLAY, "--snapshot"], environment)
            progress(steps - 1, steps, "rebuilding from snapshots")
            from_snapshots = _rebuild(services, environment, sessions)
        progress(steps, steps, "done")
    floor_s, product_s = median(each.seconds for each in floors), median(each.seconds for each in products)
    peak = median(each.peak_rss_bytes for each in products)
    return Report(
        ratios={
            "rate_over_floor": floor_s / product_s,
            "memory_1m_over_100k": peak / small_run.peak_rss_bytes,
            "snapshot_rebuild_over_full": from_snapshots.seconds / product_s,
        },
        figures={
            "conditions": {
                "records": records,
                "sessions": sessions,
                "rounds": rounds,
                "cpus": os.cpu_count(),
                "python": platform.python_version(),
                "kafka": KAFKA_VERSION,
            },
            "floor_records_per_s": records / floor_s,
            "replay_records_per_s": records / product_s,
            "floor_s": [each.seconds for each in floors],
            "replay_s": [each.seconds for each in products],
            "replay_peak_rss_bytes": peak,
            "small_replay_peak_rss_bytes": small_run.peak_rss_bytes,
            "snapshot_writing_s": writing.seconds,
            "snapshot_rebuild_s": from_snapshots.seconds,
        },
    )


_REPLAY = [sys.executable, "-m", "ops.cli", "replay", "--json"]


@contextmanager
def _filled(services: Services, records: int) -> Iterator[tuple[dict[str, str], int]]:
    """The environment of a pipeline with so many reply records, and how many sessions they are of."""
    topics = TopicNames(f"bench-{secrets.token_hex(4)}.")
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": services.bootstrap_servers,
        "REDIS_URL": services.redis_url,
        "TOPIC_PREFIX": topics.prefix,
        "LOG_LEVEL": "error",
    }
    _run([sys.executable, "-m", "ops.cli", "topics", "create"], environment)
    servers = ("--servers", services.bootstrap_servers, "--topic", topics.replies)
    _run([sys.executable, "-m", "ops.bench.replay_records", *servers, "--records", str(records)], environment)
    from ops.bench.replay_records import TURNS

    yield environment, records // TURNS


def _floor(services: Services, environment: Mapping[str, str], records: int) -> Run:
    _flush(services)
    topic = TopicNames(environment["TOPIC_PREFIX"]).replies
    servers = ("--servers", services.bootstrap_servers, "--topic", topic, "--redis", services.redis_url)
    done = _measure([sys.executable, "-m", "ops.bench.floor_replay", *servers], environment)
    if done.output["records"] != records:
        raise BenchError(f"the floor read {done.output['records']} of {records} records")
    return done


def _rebuild(services: Services, environment: Mapping[str, str], sessions: int) -> Run:
    _flush(services)
    done = _measure([*_REPLAY, "--execute"], environment)
    if done.output["switched"] != sessions:
        raise BenchError(f"{done.output['switched']} of {sessions} sessions were rebuilt")
    return done


def _flush(services: Services) -> None:
    call(int(services.redis_url.rpartition(":")[2].partition("/")[0]), "FLUSHALL")


def _measure(command: list[str], environment: Mapping[str, str]) -> Run:
    began = time.perf_counter()
    peak = 0
    with subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            try:
                peak = max(peak, usage(process.pid).rss_bytes)
            except psutil.NoSuchProcess:
                break
            time.sleep(_POLL_S)
        seconds = time.perf_counter() - began
        output = process.communicate()[0]
    if process.returncode:
        raise BenchError(f"{' '.join(command[2:])} ended with exit code {process.returncode}")
    return Run(seconds, peak, orjson.loads(output))


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=dict(environment), capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command[2:])} ended with {done.returncode}: {done.stderr.decode()[-1_000:]}")
