"""The real servers that all sides of a bench share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer


@dataclass(frozen=True)
class Services:
    """Where Kafka and Redis are, their process ids, and a directory for the logs of what uses them."""

    bootstrap_servers: str
    redis_url: str
    kafka_pid: int
    redis_pid: int
    directory: Path


@contextmanager
def local_services() -> Iterator[Services]:
    """Start Apache Kafka and Redis in a temporary directory; both and the directory are gone afterwards.

    Raises ServerError when the jars, Java or redis-server are missing.
    """
    with tempfile.TemporaryDirectory(prefix="supportstream-bench-") as name:
        directory = Path(name)
        with (
            KafkaServer(directory / "kafka", optimize=True) as kafka,
            RedisServer(directory / "redis") as redis,
        ):
            yield Services(
                bootstrap_servers=kafka.bootstrap_servers,
                redis_url=redis.url,
                kafka_pid=kafka.server.pid,
                redis_pid=redis.server.pid,
                directory=directory,
            )
