"""Apache Kafka from its own jars (`make services` puts them there), in KRaft mode and without Docker."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.local.class_archive import ClassArchive
from ops.local.java import find_java
from ops.local.kafka_config import KafkaNode, server_properties
from ops.local.kafka_probe import live_brokers
from ops.local.ports import free_ports
from ops.local.process import ServerError, ServerProcess

KAFKA_VERSION = "4.4.0"

# Any 16 bytes in base64 without padding; the data directories of different clusters never meet.
_CLUSTER_ID = "c3VwcG9ydHN0cmVhbS1sbw"
_FORMAT = ("kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER_ID, "--config")
_START_DEADLINE_S = 60.0
_STOP_GRACE_S = 30.0
_HEAP = "-Xmx768m"
_LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)


class KafkaServer:
    """One Kafka node that keeps its data in `directory`; alone by default, or one of a `KafkaCluster`.

    The data survive `stop` and `kill`: `restart` serves the same records on the same port.
    """

    def __init__(
        self,
        directory: Path,
        *,
        node: KafkaNode | None = None,
        nodes: Sequence[KafkaNode] = (),
        optimize: bool = False,
    ) -> None:
        """`nodes` are all nodes of the cluster; without `node` it is a cluster of one on free ports.

        `optimize` lets the JVM compile hot code fully: slower to start, faster under long load (for benches).
        """
        port, controller_port = free_ports(2)
        self.node = node or KafkaNode(1, port, controller_port)
        self._nodes = nodes or (self.node,)
        self._directory = directory
        self._optimize = optimize
        self._server: ServerProcess | None = None
        self._archive: ClassArchive | None = None

    @property
    def bootstrap_servers(self) -> str:
        return self.node.address

    @property
    def data(self) -> Path:
        """Where its partitions are."""
        return self._directory / "data"

    @property
    def server(self) -> ServerProcess:
        """The process, to kill or pause.

        Raises:
            ServerError: it was never started.
        """
        if self._server is None:
            raise ServerError(f"Kafka node {self.node.node_id} has not been started")
        return self._server

    def start(self) -> None:
        """Start and return once the node serves.

        Raises:
            ServerError: jars or Java are missing, or the node ended or was late.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting: the nodes of a cluster need each other to become ready."""
        if self._server is None:
            self._server = self._prepare()
        self._server.start()

    def wait_ready(self) -> None:
        self.server.wait_ready(lambda: self.node.node_id in live_brokers(self.node.port), _START_DEADLINE_S)

    def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Shut down cleanly, or kill the node after `grace_s` seconds. Does nothing if it never started."""
        if self._server is None or self._archive is None:
            return
        if self._server.stop(grace_s) != -signal.SIGKILL:
            self._archive.keep()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.server.kill()

    def restart(self) -> None:
        """Start again after `kill` or `stop`; a running node is stopped first."""
        if self.server.running:
            self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> ServerProcess:
        jars, java = find_jars(), find_java()
        data = self.data
        config = self._directory / "server.properties"
        self._directory.mkdir(parents=True, exist_ok=True)
        config.write_text(server_properties(self.node, self._nodes, data), encoding="utf-8")

        self._archive = ClassArchive(jars, java)
        quick = "-XX:TieredStopAtLevel=1"
        program: list[str | Path] = [java.program, "-XX:+UseSerialGC", "-cp", f"{jars}/*", *_LOGGING]
        if not (data / "meta.properties").exists():
            _run([*program, quick, *self._archive.use(), *_FORMAT, config])
        options = [_HEAP, *self._archive.use_or_record(), *(() if self._optimize else (quick,))]
        return ServerProcess(
            f"Kafka node {self.node.node_id}",
            [*program, *options, "kafka.Kafka", config],
            log_path=self._directory / "kafka.log",
        )


def find_jars() -> Path:
    """The folder with Kafka's jars: KAFKA_JARS, or where `make services` puts them.

    Raises:
        ServerError: there are no jars.
    """
    if chosen := os.environ.get("KAFKA_JARS"):
        folders = [Path(chosen)]
    else:
        repository = Path(__file__).parents[2]
        folders = [root / ".cache" / f"kafka-{KAFKA_VERSION}" / "jars" for root in (Path.cwd(), repository)]
    for folder in folders:
        if any(folder.glob("kafka_*.jar")):
            return folder.resolve()
    looked_in = " or ".join(map(str, dict.fromkeys(folders)))
    raise ServerError(f"The jars of Apache Kafka {KAFKA_VERSION} are not in {looked_in}. Run `make services`.")


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise ServerError(f"Kafka's storage could not be formatted:\n{done.stdout}")
