"""Members of the workers' group that do not belong there: other programs, and a worker with another's instance id."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.polling import wait_until
from tests.processes import Pipeline, Process, partitions_of


@pytest.fixture
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    with new_pipeline(GENERATOR="null") as pipeline:
        yield pipeline


@contextmanager
def kcat(pipeline: Pipeline, strategy: str) -> Iterator[Path]:
    """kcat as a member of the workers' group; the file takes what it prints."""
    printed = pipeline.directory / f"kcat-{strategy}.txt"
    command = [
        *("kcat", "-b", pipeline.bootstrap_servers, "-X", f"partition.assignment.strategy={strategy}"),
        *("-G", pipeline.group, pipeline.topics.inbound),
    ]
    with printed.open("wb") as output:
        member = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield printed
        finally:
            member.send_signal(signal.SIGTERM)
            member.wait(20.0)


def problem_with_the_group(worker: Process) -> str:
    """What readiness says of it; empty where it is in order."""
    answer = httpx.get(f"{worker.url}/health/ready", timeout=5.0)
    said = str(answer.json()["checks"]["group"])
    assert (said == "ok") == (answer.status_code == 200)
    return "" if said == "ok" else said


def test_a_program_in_the_workers_group_is_named_while_it_is_there(pipeline: Pipeline) -> None:
    """H: kcat eats what it is given; health, the log and a metric say so."""
    worker = pipeline.worker()
    pipeline.ready()
    log = worker.server.log_path
    assert problem_with_the_group(worker) == ""
    with kcat(pipeline, "roundrobin"):
        said = wait_until(lambda: problem_with_the_group(worker), "readiness names kcat")
        assert f"{pipeline.group} has members that are no workers (rdkafka at 127.0.0.1)" in said
        assert worker.metric("supportstream_foreign_group_members") == 1
    wait_until(lambda: not problem_with_the_group(worker), "kcat is gone")
    assert worker.metric("supportstream_foreign_group_members") == 0
    wait_until(lambda: "foreign_group_members_gone" in log.read_text(), "the log says that it is gone")
    assert log.read_text().count('"event": "foreign_group_members"') == 1
    wait_until(lambda: len(partitions_of(worker)) == 12, "the worker has all partitions again")


def test_a_group_with_another_assignor_is_one_line_that_names_the_group(pipeline: Pipeline) -> None:
    with kcat(pipeline, "range") as printed:
        wait_until(lambda: "assigned" in printed.read_text(), "kcat is in the group")
        done = pipeline.run("worker")
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("supportstream: another program is in the consumer group " + pipeline.group)
    assert "another CONSUMER_GROUP" in line


def test_a_second_worker_with_one_instance_id_ends_and_the_first_goes_on(pipeline: Pipeline) -> None:
    first = pipeline.worker(WORKER_INSTANCE_ID="w-1")
    pipeline.ready()
    looks = "the first worker has been at work for a while"
    wait_until(lambda: seconds_since_start(first) > 25.0, looks, 40.0)
    second = pipeline.worker(WORKER_INSTANCE_ID="w-1")
    wait_until(lambda: not second.server.running, "the second worker ends", 60.0)
    assert second.server.stop() == 1
    lines = second.server.log_path.read_text().strip().splitlines()
    assert lines[-1] == "supportstream: another worker has WORKER_INSTANCE_ID=w-1; give each worker its own"
    assert "Traceback" not in second.server.log_path.read_text()
    wait_until(lambda: len(partitions_of(first)) == 12, "the first worker has all partitions")
    assert first.server.running


def test_a_worker_that_is_restarted_with_its_instance_id_is_no_second_one(pipeline: Pipeline) -> None:
    first = pipeline.worker(WORKER_INSTANCE_ID="w-1")
    pipeline.ready()
    first.server.kill()
    again = pipeline.worker(WORKER_INSTANCE_ID="w-1")
    wait_until(again.is_ready, "it is ready")
    wait_until(lambda: seconds_since_start(again) > 20.0, "its first looks are over", 40.0)
    assert again.server.running
    assert problem_with_the_group(again) == ""


def seconds_since_start(process: Process) -> float:
    ticks = float(Path(f"/proc/{process.server.pid}/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")
