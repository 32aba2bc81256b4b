"""The two sides of a comparison as processes: how each is started, and when it is ready."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ops.bench.load import Phase, Plan, generate
from ops.bench.measure import BenchError
from ops.bench.services import Services
from ops.knowledge import sample_files
from ops.local.ports import LOOPBACK, free_port
from ops.local.process import ServerError, ServerProcess

READY_WITHIN_S = 120.0
PROBE_PATIENCE_S = 2.0

Command = tuple[str, ...]
SAMPLES = tuple(str(path) for path in sample_files())


@dataclass(frozen=True)
class Side:
    """One ingress and one worker process, told by their environment where everything is."""

    name: str
    ingress: Command
    worker: Command
    preparations: tuple[Command, ...]
    """Run one after the other, each to its end, before the servers: the topics, the knowledge."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables beside those that say where Kafka, Redis, the topics and the port are."""


@dataclass(frozen=True)
class RunningSide:
    """A side that has answered its first message."""

    port: int
    ingress_pid: int
    worker_pid: int


def floor() -> Side:
    """The hand-written minimum."""
    python = (sys.executable, "-m")
    return Side(
        name="floor",
        ingress=(*python, "ops.bench.floor_ingress"),
        worker=(*python, "ops.bench.floor_worker"),
        preparations=((*python, "ops.bench.floor_topics"),),
    )


def product(generator: str) -> Side:
    """The product, with `generator` in its worker: `null` answers with a constant, `extractive` retrieves."""
    supportstream = (sys.executable, "-m", "ops.cli")
    return Side(
        name="product",
        ingress=(*supportstream, "ingress"),
        worker=(*supportstream, "worker"),
        preparations=(
            (*supportstream, "topics", "create"),
            *(((*supportstream, "knowledge", "add", *SAMPLES),) if generator == "extractive" else ()),
        ),
        settings={
            "SESSION_STORE_TYPE": "redis",
            "GENERATOR": generator,
            "LOG_LEVEL": "warning",
            "TOKEN_SECRET": secrets.token_hex(32),
        },
    )


@contextmanager
def running(side: Side, services: Services) -> Iterator[RunningSide]:
    """Start `side` on topics and with a consumer group of its own; its logs go to the services' directory.

    Raises ServerError, with the end of the log, when a process fails or no message is answered in time. Adds
    the ends of the logs to a BenchError from the block.
    """
    port = free_port()
    run_id = secrets.token_hex(4)
    env = {
        **os.environ,
        **side.settings,
        "KAFKA_BOOTSTRAP_SERVERS": services.bootstrap_servers,
        "REDIS_URL": services.redis_url,
        "TOPIC_PREFIX": f"bench-{side.name}-{run_id}.",
        "CONSUMER_GROUP": f"bench-{side.name}-{run_id}",
        "API_PORT": str(port),
    }
    for command in side.preparations:
        _run_to_its_end(command, env)
    log_path = services.directory / f"{side.name}-{run_id}"
    ingress = ServerProcess(f"{side.name} ingress", side.ingress, log_path=log_path / "ingress.log", env=env)
    worker = ServerProcess(f"{side.name} worker", side.worker, log_path=log_path / "worker.log", env=env)
    with ingress, worker:
        ingress.start()
        worker.start()
        ingress.wait_ready(lambda: _listens(port), READY_WITHIN_S)
        worker.wait_ready(lambda: _answers(port), READY_WITHIN_S)
        try:
            yield RunningSide(port, ingress.pid, worker.pid)
        except BenchError as error:
            ended = [f"the {server.name} has ended" for server in (ingress, worker) if not server.running]
            logs = [ingress.log_tail(), worker.log_tail()]
            raise BenchError("\n".join([f"{side.name}: {error}", *ended, *logs])) from error


def _run_to_its_end(command: Command, env: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stdout}")


def _listens(port: int) -> bool:
    with socket.create_connection((LOOPBACK, port), timeout=PROBE_PATIENCE_S):
        return True


def _answers(port: int) -> bool:
    """Whether one message, sent now, is answered soon. What is answered too late is nobody's."""
    probe = Plan(port, clients=1, warm_up_s=0, measured_s=PROBE_PATIENCE_S, turns=1, patience_s=PROBE_PATIENCE_S)
    return asyncio.run(generate(probe, _silence)).turns == 1


def _silence(phase: Phase) -> None:
    """A probe has nothing to announce."""
