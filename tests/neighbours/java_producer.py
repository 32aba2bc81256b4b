"""Apache Kafka's own Java producer: its codecs, big batches, and transactions that end or hang."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import orjson

from ops.local.java import find_java
from ops.local.kafka import find_jars
from ops.local.process import ServerError

SOURCE = Path(__file__).parent / "java" / "Producer.java"
_HEAP_MB = 1_600
"""A record of 400 MB is there twice: as it was made, and in the batch."""

End = Literal["commit", "abort", "open"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to be sent."""

    key: str
    value: str
    """May hold `{padding}` once."""
    partition: int | None = None
    """None: Kafka's default partitioner decides."""
    padding: int = 0
    """How many letters x take the place of `{padding}`."""

    @property
    def value_bytes(self) -> bytes:
        """The value as it is sent."""
        return self.value.replace("{padding}", "x" * self.padding).encode()


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that are flushed together: one batch of each partition, and with `end` one transaction."""

    records: Sequence[Outgoing]
    end: End | None = None


@dataclass
class JavaProducer:
    """A Java process that sends what it is told, with one producer per call.

    Methods block. Use it as a context manager. Transactions that are open when it ends are not ended by it: the broker
    aborts them when their timeout is over.
    """

    bootstrap_servers: str
    cache: Path
    """Where the compiled program is kept from run to run."""
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def send(self, topic: str, batches: Sequence[Batch], **settings: str) -> list[int]:
        """Sends all batches in turn; the records' offsets. `settings` are the producer's, with `_` for `.`.

        Raises:
            AssertionError: the producer failed; the message is its exception.
        """
        all_settings = {"bootstrap.servers": self.bootstrap_servers}
        all_settings |= {name.replace("_", "."): value for name, value in settings.items()}
        job = {"topic": topic, "settings": all_settings, "batches": [asdict(batch) for batch in batches]}
        offsets: list[int] = self._ask(job)["offsets"]
        return offsets

    def finish(self, transactional_id: str, end: Literal["commit", "abort"]) -> None:
        """Ends a transaction that a batch left open."""
        self._ask({"finish": transactional_id, "end": end})

    def start(self) -> None:
        java, jars = find_java().program, find_jars()
        classes = _compiled(java, jars, self.cache)
        options = [f"-Xmx{_HEAP_MB}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        logging = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
        self._process = subprocess.Popen(
            [java, *options, logging, "-cp", f"{classes}:{jars}/*", SOURCE.stem],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None, "the producer was not started"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(job) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the Java producer ended with exit code {self._process.wait()}"
        answer: dict[str, Any] = orjson.loads(line)
        assert "error" not in answer, answer["error"]
        return answer


def _compiled(java: Path, jars: Path, cache: Path) -> Path:
    """The folder with the compiled program, compiled now unless this version of it was before.

    Raises:
        ServerError: there is no Java compiler, or it refuses the program.
    """
    classes = cache / sha256(SOURCE.read_bytes()).hexdigest()[:16]
    if (classes / f"{SOURCE.stem}.class").exists():
        return classes
    # Beside the program that `java` leads to; Debian's alternatives may lack it.
    compiler = java.resolve().with_name("javac")
    program = str(compiler) if compiler.exists() else shutil.which("javac")
    if program is None:
        raise ServerError("There is no Java compiler (a JDK). Run `make services`.")
    done = subprocess.run(
        [program, "-Xlint:all", "-d", classes, "-cp", f"{jars}/*", SOURCE], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(f"{SOURCE.name} could not be compiled:\n{done.stderr}")
    return classes
