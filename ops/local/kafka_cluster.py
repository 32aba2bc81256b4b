"""Several Kafka nodes on this machine, to see what happens when one of them dies."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.local.kafka import KafkaServer
from ops.local.kafka_config import KafkaNode
from ops.local.ports import free_ports

_STOP_GRACE_S = 5.0


class KafkaCluster:
    """`brokers` nodes that are brokers and controllers at once.

    With three, topics have three replicas and two must be in sync, so that one node may die without loss.
    """

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int = 3,
        extra_host: str | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> None:
        """`extra_host` and `overrides` as in `KafkaNode`."""
        ports = iter(free_ports(3 * brokers))
        nodes = [
            KafkaNode(n, next(ports), next(ports), extra_host, next(ports), overrides or {})
            for n in range(1, brokers + 1)
        ]
        self.servers = [KafkaServer(directory / f"node-{node.node_id}", node=node, nodes=nodes) for node in nodes]

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(server.bootstrap_servers for server in self.servers)

    @property
    def extra_bootstrap_servers(self) -> str:
        """For clients that reach `extra_host` only."""
        return ",".join(f"{server.node.extra_host}:{server.node.extra_port}" for server in self.servers)

    def start(self) -> None:
        """Start all nodes and return once each serves.

        Raises:
            ServerError: jars or Java are missing, or a node ended or was late; no node is left running.
        """
        try:
            for server in self.servers:
                server.launch()
            for server in self.servers:
                server.wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut all nodes down at once; the last can't leave in order without a quorum and is killed."""
        with ThreadPoolExecutor(len(self.servers)) as threads:
            for stopping in [threads.submit(server.stop, _STOP_GRACE_S) for server in self.servers]:
                stopping.result()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
