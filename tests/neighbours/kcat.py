"""librdkafka as a neighbour, through kcat."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Codec = Literal["gzip", "snappy", "lz4", "zstd"]
CODECS: tuple[Codec, ...] = ("gzip", "snappy", "lz4", "zstd")
_ENOUGH_BYTES = "16000000"


@dataclass(frozen=True, slots=True)
class Kcat:
    """A producer of its own for each call, which flushes and ends."""

    bootstrap_servers: str

    def send(
        self,
        topic: str,
        records: Sequence[tuple[str, str]],
        *,
        codec: Codec | None = None,
        partition: int | None = None,
        partitioner: str | None = None,
        header_name: bytes | None = None,
        **settings: str,
    ) -> None:
        """Sends (key, value) pairs, those of one partition as one batch. Blocks.

        Without `partition` the `partitioner` decides; by default that is librdkafka's own, CRC32 of the key. `settings`
        are librdkafka's, with `_` for `.`.
        """
        chosen = {
            # All of it is there before the first batch is closed.
            "linger.ms": "500",
            # librdkafka compares it with the size before compression.
            "message.max.bytes": _ENOUGH_BYTES,
            **({"topic.partitioner": partitioner} if partitioner else {}),
            **{name.replace("_", "."): value for name, value in settings.items()},
        }
        arguments = ["-b", self.bootstrap_servers, "-t", topic, "-K", "\t"]
        arguments += [part for name, value in chosen.items() for part in ("-X", f"{name}={value}")]
        arguments += ["-z", codec] if codec else []
        arguments += ["-p", str(partition)] if partition is not None else []
        header = [b"-H", header_name + b"=1"] if header_name is not None else []
        done = subprocess.run(
            [b"kcat", b"-P", *map(os.fsencode, arguments), *header],
            input="".join(f"{key}\t{value}\n" for key, value in records).encode(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
