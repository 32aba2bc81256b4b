"""A Redis Cluster on this machine: several masters, each the owner of a range of the hash slots."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.local.ports import LOOPBACK, free_ports
from ops.local.redis import RedisServer
from ops.local.redis_call import call

_SLOTS = 16_384
_NODE_TIMEOUT_MS = 2_000
_START_DEADLINE_S = 30.0
_CONFIG_FILE = "nodes.conf"


class RedisCluster:
    """`masters` nodes without replicas: two seconds after one died, the others refuse commands, too.

    They serve again soon after it is started again; it has its slots still, but no keys.
    """

    def __init__(self, directory: Path, *, masters: int = 3) -> None:
        ports = free_ports(2 * masters)
        # Each bus port is given: the default is 10,000 above the client port, where nobody looked if it is free.
        self._bus_ports = dict(zip(ports[:masters], ports[masters:], strict=True))
        self._config_files = [directory / f"node-{n}" / _CONFIG_FILE for n in range(1, masters + 1)]
        self.servers = [
            RedisServer(config.parent, port=port, options=_options(bus_port))
            for config, (port, bus_port) in zip(self._config_files, self._bus_ports.items(), strict=True)
        ]
        self._running = ExitStack()

    @property
    def url(self) -> str:
        """Of the first node; a cluster client learns the others from it."""
        return f"redis://{LOOPBACK}:{self.servers[0].port}"

    def start(self) -> None:
        """Start all nodes and return once each serves its slots and knows who owns the rest.

        Raises:
            ServerError: redis-server is not installed or older than 7.0, or a node ended or was late; no node is
                left running.
        """
        for config in self._config_files:
            config.unlink(missing_ok=True)
        with ExitStack() as started:
            for server in self.servers:
                started.enter_context(server)
            self._assign_slots()
            self._introduce()
            for server in self.servers:
                server.server.wait_ready(partial(self._complete, server.port), _START_DEADLINE_S)
            self._running = started.pop_all()

    def stop(self) -> None:
        self._running.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _assign_slots(self) -> None:
        bounds = [n * _SLOTS // len(self.servers) for n in range(len(self.servers) + 1)]
        for epoch, server in enumerate(self.servers, start=1):
            # Nodes that begin with the same epoch would first have to settle whose claims are newer.
            call(server.port, "CLUSTER", "SET-CONFIG-EPOCH", str(epoch))
            call(server.port, "CLUSTER", "ADDSLOTSRANGE", str(bounds[epoch - 1]), str(bounds[epoch] - 1))

    def _introduce(self) -> None:
        """The first node meets the others, which then hear of each other from it."""
        first, *others = self.servers
        for other in others:
            call(first.port, "CLUSTER", "MEET", LOOPBACK, str(other.port), str(self._bus_ports[other.port]))

    def _complete(self, port: int) -> bool:
        lines: list[str] = call(port, "CLUSTER", "INFO").split()
        return {"cluster_state:ok", f"cluster_known_nodes:{len(self.servers)}"}.issubset(lines)


def _options(bus_port: int) -> tuple[str, ...]:
    return (
        *("--cluster-enabled", "yes", "--cluster-config-file", _CONFIG_FILE),
        *("--cluster-port", str(bus_port), "--cluster-node-timeout", str(_NODE_TIMEOUT_MS)),
    )
