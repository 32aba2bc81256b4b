"""Neighbours' producers, and pipelines without retrieval."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.local.kafka import KafkaServer
from tests.neighbours.java_producer import JavaProducer
from tests.neighbours.kafkajs_producer import KafkajsProducer
from tests.neighbours.kcat import Kcat
from tests.processes import Pipeline

CACHE = Path(__file__).parents[2] / ".cache"


@pytest.fixture(scope="package")
def java(kafka: KafkaServer) -> Iterator[JavaProducer]:
    with JavaProducer(kafka.bootstrap_servers, CACHE / "java-producer") as producer:
        yield producer


@pytest.fixture
def kcat(kafka: KafkaServer) -> Kcat:
    return Kcat(kafka.bootstrap_servers)


@pytest.fixture
def kafkajs(kafka: KafkaServer) -> KafkajsProducer:
    return KafkajsProducer(kafka.bootstrap_servers, CACHE / "kafkajs" / "node_modules")


@pytest.fixture
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    """Topics of its own and no process yet."""
    with new_pipeline(GENERATOR="null") as pipeline:
        yield pipeline
