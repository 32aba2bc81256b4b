"""Topics whose configuration does not fit: told by `check`, and once at the start of worker and ingress."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.processes import Pipeline

WITHOUT_CODECS = "from aiokafka import codec; codec.cramjam = None; from ops.cli import main; main()"
"""`supportstream` where aiokafka has found no cramjam."""


@pytest.fixture(scope="module")
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    with new_pipeline(GENERATOR="null") as pipeline:
        configure(pipeline, pipeline.topics.dlq, "max.message.bytes", "500000")
        configure(pipeline, pipeline.topics.replies, "compression.type", "zstd")
        yield pipeline


def configure(pipeline: Pipeline, topic: str, name: str, value: str) -> None:
    async def alter() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
        await admin.start()
        try:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={name: value})])
        finally:
            await admin.close()

    asyncio.run(alter())


def test_check_names_what_does_not_fit(pipeline: Pipeline) -> None:
    done = pipeline.run("check")
    assert done.returncode == 1
    assert f"{pipeline.topics.dlq} takes 500000 bytes, and a dead letter of {pipeline.topics.inbound}" in done.stdout
    assert "compression.type" not in done.stdout, "zstd can be read here"
    bare = subprocess.run(
        [sys.executable, "-c", WITHOUT_CODECS, "check"],
        env=pipeline.environment(),
        cwd=pipeline.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert bare.returncode == 1
    assert f"{pipeline.topics.replies} has compression.type zstd, which this installation can't read" in bare.stdout


def test_worker_and_ingress_warn_once_with_a_hint(pipeline: Pipeline) -> None:
    """Both start all the same. Where no codec is installed, they say so of the reply topic, too."""
    worker = replace(pipeline, program=(sys.executable, "-c", WITHOUT_CODECS)).worker()
    ingress = pipeline.ingress()
    for process in (worker, ingress):
        process.server.wait_ready(process.is_ready, 60.0)
        log = process.server.log_path.read_text()
        assert log.count("dead_letter_topic_takes_little") == 1
        assert f"set max.message.bytes of {pipeline.topics.dlq}" in log
    assert worker.server.log_path.read_text().count("compression_unreadable") == 1
    assert "compression_unreadable" not in ingress.server.log_path.read_text()
