"""kafkajs as a neighbour: JavaScript's producer, with gzip and its own partitioners."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from ops.local.process import ServerError

PROGRAM = Path(__file__).parent / "kafkajs" / "producer.js"

Partitioner = Literal["default", "java", "legacy"]


@dataclass(frozen=True, slots=True)
class KafkajsProducer:
    """A Node process of its own for each call."""

    bootstrap_servers: str
    modules: Path
    """The folder `node_modules` with kafkajs; `make services` fills it."""

    def send(
        self, topic: str, records: Sequence[tuple[str, str]], *, gzip: bool = False, partitioner: Partitioner
    ) -> list[int]:
        """Sends (key, value) pairs; the partition that each went to. Blocks.

        Raises:
            ServerError: Node or kafkajs is not installed.
        """
        node = shutil.which("node")
        if node is None or not (self.modules / "kafkajs").is_dir():
            raise ServerError(f"Node or kafkajs (in {self.modules}) is not installed. Run `make services`.")
        job = {
            "servers": self.bootstrap_servers,
            "topic": topic,
            "gzip": gzip,
            "partitioner": partitioner,
            "records": [{"key": key, "value": value} for key, value in records],
        }
        done = subprocess.run(
            [node, PROGRAM],
            input=orjson.dumps(job),
            env={**os.environ, "NODE_PATH": str(self.modules)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        partitions: list[int] = orjson.loads(done.stdout)
        return partitions
