"""`supportstream bench lanes`: one partition, a hundred sessions, work of a given length per record.

The ideal is lanes ÷ work: every lane busy all the time. The consumer is the product's (group member, lanes, commits,
bounds), the store is in memory, and the work is `asyncio.sleep`: what is left is what ordering costs. All records are
in the topic before the measurement, which goes from the first record taken to the last one's end, with no warm-up of
the consumer. Each run checks that no session's records overlapped or changed places, and that all is committed.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.bench.failover import measure_failover
from ops.bench.lanes_worker import HOT
from ops.bench.measure import BenchError
from ops.bench.report import Report
from ops.bench.services import Services, local_services
from ops.local.kafka import KAFKA_VERSION

LANES = 100
WORKS_MS = (0.0, 1.0, 10.0, 50.0)
HOT_KEY = {"within_bound": 40, "beyond_bound": 2}
"""Beside the others, every so manieth record is of one hot session: with 10 ms of work its queue stays below the
partition's bound, or goes far beyond it."""
_HOT_RECORDS = 4_000
_HOT_WORK_MS = 10.0
_MOST_RECORDS_PER_S = 25_000
"""About what a consumer without work may reach: how many records fill a measurement."""
_BROKER_WARM_UP_RECORDS = 100_000
_PATIENCE_S = 120.0

Progress = Callable[[int, int, str], None]


def run(rounds: int, seconds: float, failover_rounds: int, progress: Progress) -> Report:
    """`rounds` runs of each length of work, each about `seconds` long if nothing is added; then `failover_rounds`
    deaths of a worker and of a broker.

    Raises:
        ServerError: Kafka can't be started.
        BenchError: a run broke the order, or committed something else than all.
    """
    steps = 1 + rounds * len(WORKS_MS) + 2 * failover_rounds
    runs: dict[float, list[dict[str, float]]] = {work_ms: [] for work_ms in WORKS_MS}
    with local_services() as services:
        progress(0, steps, "warming up the broker")
        _run_once(services, _BROKER_WARM_UP_RECORDS, 0.0)
        done = 0
        for number in range(rounds):
            for work_ms in WORKS_MS:
                done += 1
                progress(done, steps, f"{work_ms:g} ms of work, round {number + 1} of {rounds}")
                runs[work_ms].append(_run_once(services, _records(work_ms, seconds), work_ms))
        progress(done, steps, "a hot session")
        hot = {
            name: _run_once(services, _HOT_RECORDS, _HOT_WORK_MS, hot_every=every) for name, every in HOT_KEY.items()
        }
    report = report_of(runs, {"rounds": rounds, "seconds": seconds})
    report.figures["hot_key"] = hot
    if failover_rounds:
        deaths = measure_failover(failover_rounds, lambda seen: progress(done + 1 + seen, steps, "failover"))
        report.figures["failover_s"] = {
            who: {"median": median(each), "worst": max(each)} for who, each in deaths.items()
        }
    progress(steps, steps, "done")
    return report


def report_of(runs: dict[float, list[dict[str, float]]], conditions: dict[str, object]) -> Report:
    """Medians over the rounds."""
    medians = {
        work_ms: {name: median(each[name] for each in rounds) for name in rounds[0]} for work_ms, rounds in runs.items()
    }
    ratios = {
        f"work_{work_ms:g}ms": medians[work_ms]["records_per_s"] / ideal_per_s(work_ms)
        for work_ms in medians
        if work_ms >= 10
    }
    return Report(
        ratios=ratios,
        figures={
            "conditions": {
                **conditions,
                "lanes": LANES,
                "cpus": os.cpu_count(),
                "python": platform.python_version(),
                "kafka": KAFKA_VERSION,
            },
            "work": {f"{work_ms:g} ms": figures for work_ms, figures in medians.items()},
            "rounds": {f"{work_ms:g} ms": rounds for work_ms, rounds in runs.items()},
        },
    )


def ideal_per_s(work_ms: float) -> float:
    """Records a second when every lane is busy all the time."""
    return LANES / (work_ms / 1000)


def _records(work_ms: float, seconds: float) -> int:
    rate = min(_MOST_RECORDS_PER_S, ideal_per_s(work_ms) if work_ms else _MOST_RECORDS_PER_S)
    return int(rate * seconds) // LANES * LANES


def _run_once(services: Services, records: int, work_ms: float, *, hot_every: int | None = None) -> dict[str, float]:
    """`hot_every`: every so manieth record is of the hot session."""
    topic = f"bench-lanes-{secrets.token_hex(4)}"
    asyncio.run(_fill(services.bootstrap_servers, topic, records, hot_every))
    consumed = _consume(services.bootstrap_servers, topic, records, work_ms)
    return figures_of(consumed, records)


def figures_of(consumed: dict[str, Any], records: int) -> dict[str, float]:
    """Raises BenchError when the run was not right."""
    if consumed["order_broken"]:
        raise BenchError(f"{consumed['order_broken']} records ran out of order or beside another of their session")
    if consumed["records"] != records or consumed["committed"] != records:
        raise BenchError(f"of {records} records {consumed['records']} ran, {consumed['committed']} are committed")
    added = sorted(consumed["added_ms"])
    return {
        "records_per_s": consumed["others"] / consumed["seconds"],
        "added_ms_p50": added[len(added) // 2],
        "added_ms_p99": added[len(added) * 99 // 100],
    }


async def _fill(servers: str, topic: str, records: int, hot_every: int | None) -> None:
    """Records of all sessions in turn, in one partition, and among them those of the hot one."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", linger_ms=5, max_batch_size=262_144)
    await producer.start()
    try:
        keys = [f"s-{lane}".encode() for lane in range(LANES)]
        hot = HOT.encode()
        sent = [
            await producer.send(
                topic,
                b'{"id": "%d", "text": "Where is my order?"}' % n,
                hot if hot_every and n % hot_every == 0 else keys[n % LANES],
                0,
            )
            for n in range(records)
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def _consume(servers: str, topic: str, records: int, work_ms: float) -> dict[str, Any]:
    command = (sys.executable, "-m", "ops.bench.lanes_worker", "--servers", servers, "--topic", topic)
    sizes = ("--records", str(records), "--lanes", str(LANES), "--work-ms", str(work_ms))
    try:
        done = subprocess.run([*command, *sizes], capture_output=True, check=False, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{records} records with {work_ms:g} ms of work were not done in {_PATIENCE_S:g} s") from error
    if done.returncode:
        raise BenchError(f"the consumer ended with exit code {done.returncode}:\n{done.stderr.decode()[-2_000:]}")
    consumed: dict[str, Any] = orjson.loads(done.stdout)
    return consumed
