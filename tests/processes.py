"""The product as it runs: `supportstream …` as processes of their own, told by their environment where all is."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from ops.local.ports import LOOPBACK, free_port
from ops.local.process import ServerProcess
from schemas.topics import TopicNames
from tests.polling import wait_until

SUPPORTSTREAM = (sys.executable, "-m", "ops.cli")
REPOSITORY = Path(__file__).parents[1]
SAMPLES = sorted((REPOSITORY / "ops" / "sample_knowledge").glob("*.md"))
READY_WITHIN_S = 90.0
COMMAND_WITHIN_S = 120.0
SETTING_PREFIXES = ("SESSION_", "REDIS_", "KAFKA_", "WORKER_", "TOPIC_", "API_", "TOKEN_", "GENERATOR", "CORS_")


def get(url: str, timeout: float = 5.0) -> httpx.Response:
    """Asks a process of this machine. By plain HTTP: httpx would otherwise read all certificates of the machine at each
    call, which costs more than ten times as much as the call."""
    return httpx.get(url, timeout=timeout, verify=False)


@dataclass(frozen=True)
class Process:
    """An ingress or a worker with its HTTP port."""

    server: ServerProcess
    port: int
    host: str = LOOPBACK

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://{self.host}:{self.port}/ws"

    def is_ready(self) -> bool:
        try:
            return get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def health(self) -> dict[str, Any]:
        body: dict[str, Any] = get(f"{self.url}/health").json()
        return body

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that carry these labels; 0 if there is none."""
        text = get(f"{self.url}/metrics").text
        total = 0.0
        for found in re.finditer(rf"^{re.escape(name)}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE):
            if all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
                total += float(found[2])
        return total


@dataclass
class Pipeline:
    """Topics, a group and keys of its own on shared servers, and the processes that were started on them.

    Methods block. Use it as a context manager: what it started, ends with it.
    """

    bootstrap_servers: str
    redis_url: str
    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for every process and command of this pipeline."""
    program: tuple[str, ...] = SUPPORTSTREAM
    """What is started as ingress or worker."""
    run_id: str = field(default_factory=lambda: secrets.token_hex(5))
    token_secret: str = field(default_factory=lambda: secrets.token_hex(32))
    _started: list[Process] = field(default_factory=list)

    @property
    def topics(self) -> TopicNames:
        return TopicNames(f"test-{self.run_id}.")

    @property
    def group(self) -> str:
        return f"test-{self.run_id}"

    @property
    def key_prefix(self) -> str:
        return f"test-{self.run_id}:session:"

    def environment(self, **settings: str) -> dict[str, str]:
        """The whole environment of a process: ours without any setting, and this pipeline's settings."""
        own = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "REDIS_URL": self.redis_url,
            "TOPIC_PREFIX": self.topics.prefix,
            "CONSUMER_GROUP": self.group,
            "REDIS_SESSION_KEY_PREFIX": self.key_prefix,
            "TOKEN_SECRET": self.token_secret,
            "LOG_LEVEL": "warning",
            # A dead member of the group is missed soon.
            "WORKER_SESSION_TIMEOUT_MS": "3000",
        }
        return {**bare_environment(), **own, **self.settings, **settings}

    def run(self, *arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        """`supportstream <arguments>` to its end, in an empty directory, so that no `.env` is read."""
        return run_command(arguments, self.environment(**settings), self.directory, stdin)

    def must(self, *arguments: str, stdin: str = "", **settings: str) -> str:
        """What `run` printed; it must exit with 0."""
        done = self.run(*arguments, stdin=stdin, **settings)
        assert done.returncode == 0, f"{arguments} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def ingress(self, **settings: str) -> Process:
        """Starts one; `ready` waits for it."""
        port = free_port()
        return self._start("ingress", port, self.environment(API_PORT=str(port), **settings))

    def worker(self, *, within: Sequence[str] = (), host: str = LOOPBACK, **settings: str) -> Process:
        """Starts one; `ready` waits for it. `within` goes before its command; then it is reached at `host`."""
        port = free_port()
        environment = self.environment(WORKER_PORT=str(port), API_HOST=host, **settings)
        return self._start("worker", port, environment, within, host)

    def ready(self) -> Self:
        """Returns when all that runs is ready and the workers share all partitions."""
        for process in self._started:
            if process.server.running:
                process.server.wait_ready(process.is_ready, READY_WITHIN_S)
        if workers := self.workers:
            wait_until(lambda: self._shared(workers), "the workers share the partitions", READY_WITHIN_S)
        return self

    @property
    def workers(self) -> list[Process]:
        """Those that run."""
        return [process for process in self._started if is_worker(process) and process.server.running]

    def stop(self) -> None:
        for process in reversed(self._started):
            if process.server.running:
                process.server.stop(grace_s=15.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _start(
        self,
        kind: str,
        port: int,
        environment: Mapping[str, str],
        within: Sequence[str] = (),
        host: str = LOOPBACK,
    ) -> Process:
        name = f"{kind}-{len(self._started) + 1}"
        log_path = self.directory / f"{self.run_id}-{name}.log"
        server = ServerProcess(name, [*within, *self.program, kind], log_path=log_path, env=environment)
        server.start()
        process = Process(server, port, host)
        self._started.append(process)
        return process

    def _shared(self, workers: list[Process]) -> bool:
        shares = [worker.health()["partitions"] for worker in workers]
        return all(shares) and sum(map(len, shares)) == int(self.settings.get("TOPIC_PARTITIONS", "12"))


def is_worker(process: Process) -> bool:
    return process.server.name.startswith("worker")


def partitions_of(worker: Process) -> set[int]:
    """The inbound partitions that the worker owns now."""
    return {int(name.rpartition(":")[2]) for name in worker.health()["partitions"]}


def bare_environment() -> dict[str, str]:
    """Our environment without anything that is a setting, and with the repository importable from anywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTING_PREFIXES)}
    return {**kept, "PYTHONPATH": str(REPOSITORY)}


def run_command(
    arguments: tuple[str, ...], environment: Mapping[str, str], directory: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """`supportstream <arguments>` to its end."""
    return subprocess.run(
        [*SUPPORTSTREAM, *arguments],
        env=environment,
        cwd=directory,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
    )


@contextmanager
def paused(process: Process) -> Iterator[None]:
    """The process is frozen (SIGSTOP) inside the block."""
    process.server.pause()
    try:
        yield
    finally:
        process.server.resume()
