"""One Kafka node and one redis-server per run, shared by all processes of the run.

The process that pytest was started as (the first process) runs this module as its child, the keeper. Any process of
the run asks the keeper for a server by name, and the keeper starts that server when it is asked for the first time. The
keeper's standard input is a pipe whose other end only the first process holds. When that process ends, in whichever
way, the pipe ends as well: then the keeper stops the servers and kills every process that the run has left.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Self

import psutil

from ops.local.kafka import KafkaServer
from ops.local.kafka_config import KafkaNode
from ops.local.process import ServerError
from ops.local.redis import RedisServer
from tests.polling import wait_until

RUN = "SUPPORTSTREAM_TEST_RUN"
"""The environment variable with the run's directory. Every process of the run inherits it, and is found by it."""
REPOSITORY = Path(__file__).parents[1]
KEEPER_ENDS_WITHIN_S = 60.0


def run_directory() -> Path:
    """Of this run: the keeper's socket, and the lock of `tests.one_at_a_time`."""
    return Path(os.environ[RUN])


class KeeperProcess:
    """The keeper, as its parent sees it. Names the run's directory in `RUN`."""

    def __init__(self) -> None:
        self.run = tempfile.mkdtemp(prefix="supportstream-test-")
        os.environ[RUN] = self.run
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.shared_servers"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            # Ctrl-C in the terminal is for pytest: the keeper has to outlive it.
            process_group=0,
        )

    def end(self) -> None:
        """Returns when the servers have stopped."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(KEEPER_ENDS_WITHIN_S)
        os.environ.pop(RUN, None)


def shared_kafka(directory: Path) -> KafkaServer:
    """The run's node, to connect to. `directory` takes its files if this call starts it.

    Raises:
        ServerError: it could not be started; the message says why.
    """
    node_id, port, controller_port = ask("kafka", directory)
    return KafkaServer(directory, node=KafkaNode(node_id, port, controller_port))


def shared_redis(directory: Path) -> RedisServer:
    """The run's server, as `shared_kafka`."""
    (port,) = ask("redis", directory)
    return RedisServer(directory, port=port)


def ask(name: str, directory: Path) -> tuple[int, ...]:
    """The numbers by which clients reach the server."""
    with wait_until(lambda: Client(str(run_directory() / "keeper")), "the keeper of the shared servers") as connection:
        connection.send((name, directory))
        found: tuple[int, ...] | str = connection.recv()
    if isinstance(found, str):
        raise ServerError(found)
    return found


class SharedServers:
    """The servers that the keeper has started."""

    def __init__(self) -> None:
        self._starts: dict[str, Callable[[Path], tuple[int, ...]]] = {"kafka": self._kafka, "redis": self._redis}
        self._started: dict[str, tuple[int, ...]] = {}
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def get(self, name: str, directory: Path) -> tuple[int, ...]:
        """Starts the server if it does not run yet.

        Raises:
            ServerError: it could not be started. The next call tries again.
        """
        with self._lock:
            if name not in self._started:
                self._started[name] = self._starts[name](directory)
            return self._started[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._stack.close()

    def _kafka(self, directory: Path) -> tuple[int, ...]:
        node = self._stack.enter_context(KafkaServer(directory)).node
        return node.node_id, node.port, node.controller_port

    def _redis(self, directory: Path) -> tuple[int, ...]:
        return (self._stack.enter_context(RedisServer(directory)).port,)


def serve(listener: Listener, servers: SharedServers) -> None:
    """Answers the processes of the run, one after the other, as long as the keeper lives."""
    while True:
        with listener.accept() as connection:
            answer(connection, servers)


def answer(connection: Connection, servers: SharedServers) -> None:
    try:
        name, directory = connection.recv()
        found: tuple[int, ...] | str = servers.get(name, directory)
    except Exception as error:
        # A process that fails to get a server fails its test; the others go on asking.
        found = f"{type(error).__name__}: {error}"
    try:
        connection.send(found)
    except OSError as error:
        print(f"A test process has ended while it waited for a server: {error}", file=sys.stderr)


def kill_what_is_left(run: str) -> None:
    """Every process that has inherited the run's variable, but this one. Says which they were."""
    for process in psutil.process_iter(["environ", "cmdline"]):
        inherited = (process.info["environ"] or {}).get(RUN)
        if inherited == run and process.pid != os.getpid():
            print(f"Killing process {process.pid}, left by the tests: {process.info['cmdline']}", file=sys.stderr)
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def keep(run: str) -> None:
    """The keeper's life."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        with Listener(str(Path(run) / "keeper"), backlog=16) as listener, SharedServers() as servers:
            threading.Thread(target=serve, args=(listener, servers), daemon=True).start()
            sys.stdin.read()
    finally:
        kill_what_is_left(run)
        shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    keep(os.environ[RUN])
