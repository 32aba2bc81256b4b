"""The servers that all processes of a test run share end with the run, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from ops.local.redis import RedisServer
from tests.polling import wait_until
from tests.processes import REPOSITORY
from tests.shared_servers import RUN, kill_what_is_left, shared_redis

A_RUN = """
import subprocess, sys
from pathlib import Path
from tests.shared_servers import KeeperProcess, shared_redis

keeper = KeeperProcess()
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
print(shared_redis(Path(sys.argv[1])).port, left.pid, flush=True)
sys.stdin.read()
keeper.end()
"""
"""A first process that asks for Redis, leaves a process behind, and ends when its standard input does."""


def begin(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", A_RUN, str(directory)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(run: subprocess.Popen[str], directory: Path) -> tuple[RedisServer, int]:
    """The server that the run has started, and the process that it leaves behind."""
    assert run.stdout
    port, left = map(int, run.stdout.readline().split())
    return RedisServer(directory, port=port), left


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(server: RedisServer) -> bool:
    try:
        return bool(redis.Redis.from_url(server.url).ping())
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize(
    "number", [None, signal.SIGTERM, signal.SIGKILL], ids=["by itself", "by SIGTERM", "by SIGKILL"]
)
def test_a_run_that_ends_leaves_no_server_and_no_process(tmp_path: Path, number: signal.Signals | None) -> None:
    with begin(tmp_path) as run:
        server, left = told(run, tmp_path)
        assert answers(server)
        assert lives(left)
        if number is not None:
            run.send_signal(number)
    wait_until(lambda: not answers(server), "the server is gone")
    wait_until(lambda: not lives(left), "the process that was left is gone")


def test_all_processes_of_a_run_get_the_same_server(redis_server: RedisServer, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.shared_servers import shared_redis;"
    ask = [sys.executable, "-c", f"{code} print(shared_redis(Path(sys.argv[1])).port)", str(tmp_path)]
    port = subprocess.run(ask, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert int(port) == redis_server.port == shared_redis(tmp_path).port


def test_the_processes_of_another_run_are_left_alone(tmp_path: Path) -> None:
    this, another = str(tmp_path / "this"), str(tmp_path / "another")
    code = [sys.executable, "-c", "import time; time.sleep(600)"]
    with (
        subprocess.Popen(code, env={**os.environ, RUN: this}) as ours,
        subprocess.Popen(code, env={**os.environ, RUN: another}) as theirs,
    ):

        def killed() -> bool:
            # Again and again: a process that has just begun still shows the environment of its parent.
            kill_what_is_left(this)
            return ours.poll() is not None

        try:
            wait_until(killed, "the run's process is killed")
            assert theirs.poll() is None
        finally:
            theirs.kill()
