"""What a local Apache Kafka node is configured with: KRaft, every node both broker and controller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ops.local.ports import LOOPBACK


@dataclass(frozen=True)
class KafkaNode:
    node_id: int
    port: int
    controller_port: int
    extra_host: str | None = None
    """Another address of this machine, for clients that don't reach loopback."""
    extra_port: int = 0
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Broker settings that go before ours."""

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"


def server_properties(node: KafkaNode, nodes: Sequence[KafkaNode], log_dir: Path) -> str:
    """The text of `server.properties` for `node` of the cluster `nodes` (itself included)."""
    replicas = min(3, len(nodes))
    min_in_sync = max(1, replicas - 1)
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": node.node_id,
        "controller.quorum.voters": ",".join(f"{n.node_id}@{LOOPBACK}:{n.controller_port}" for n in nodes),
        "listeners": f"CLIENTS://{node.address},CONTROLLER://{LOOPBACK}:{node.controller_port}",
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENTS",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": log_dir.resolve().as_posix(),
        # A topic that nobody created is a mistake that must show.
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": min_in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": min_in_sync,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": min_in_sync,
        "share.coordinator.state.topic.num.partitions": 4,
        # Tests start many groups and kill members: no waiting for more of them, short sessions are allowed.
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        # Compaction shows within a second instead of minutes; the default buffer is 128 MiB of a small heap.
        "log.cleaner.backoff.ms": 500,
        "log.cleaner.min.cleanable.ratio": 0.01,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }
    if len(nodes) == 1:
        # A killed broker may not register again before its old session ends. Nobody takes over from a single
        # node, so it can be short; a cluster keeps Kafka's default, as its failover is what is looked at.
        settings |= {"broker.session.timeout.ms": 3_000, "broker.heartbeat.interval.ms": 500}
    if node.extra_host is not None:
        settings["listeners"] = f"{settings['listeners']},ELSEWHERE://{node.extra_host}:{node.extra_port}"
        settings["listener.security.protocol.map"] = "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT,ELSEWHERE:PLAINTEXT"
    settings |= node.overrides
    return "".join(f"{name}={value}\n" for name, value in settings.items())
