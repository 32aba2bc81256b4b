"""The topics: their names, their partitions, how long they keep records."""

from dataclasses import dataclass, field
from typing import Literal

HOUR_MS = 60 * 60 * 1000
DAY_MS = 24 * HOUR_MS
MAX_EVENT_BYTES = 1_000_000
"""The largest inbound or reply record; brokers take 1 MiB with its framing unless told otherwise."""
MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
"""The largest knowledge record: a document with its embeddings."""


_FORGETS_WITHIN_A_DAY = {
    "segment.ms": str(HOUR_MS),
    "max.compaction.lag.ms": str(6 * HOUR_MS),
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": str(DAY_MS),
}
"""A key whose destruction was published is in the log for an hour until its segment is closed, and six more at most
until that is compacted."""


@dataclass(frozen=True, slots=True)
class TopicNames:
    """Names under one prefix, `support.` unless set otherwise."""

    prefix: str = "support."

    @property
    def inbound(self) -> str:
        return f"{self.prefix}inbound.v1"

    @property
    def replies(self) -> str:
        return f"{self.prefix}replies.v1"

    @property
    def deltas(self) -> str:
        return f"{self.prefix}deltas.v1"

    @property
    def knowledge(self) -> str:
        return f"{self.prefix}knowledge.v1"

    @property
    def snapshots(self) -> str:
        return f"{self.prefix}snapshots.v1"

    @property
    def keys(self) -> str:
        return f"{self.prefix}keys.v1"

    @property
    def dlq(self) -> str:
        return f"{self.prefix}dlq.v1"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as `supportstream topics create` makes it and `topics check` expects it."""

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"]
    retention_ms: int
    config: dict[str, str] = field(default_factory=dict)

    @property
    def configs(self) -> dict[str, str]:
        """Topic configuration in the broker's words."""
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            **self.config,
        }


def topic_specs(names: TopicNames, partitions: int, replies_retention_ms: int = -1) -> list[TopicSpec]:
    """All topics. Inbound, replies and deltas share their partition count, so a session has one home in all three.
    Replies are kept for ever unless told otherwise."""
    keep = {"max.message.bytes": str(MAX_EVENT_BYTES + 48_576)}
    return [
        TopicSpec(names.inbound, partitions, "delete", 7 * DAY_MS, keep),
        TopicSpec(names.replies, partitions, "delete", replies_retention_ms, keep),
        TopicSpec(names.deltas, partitions, "delete", 10 * 60 * 1000, {"segment.ms": str(10 * 60 * 1000)}),
        TopicSpec(names.knowledge, 1, "compact", -1, {"max.message.bytes": str(MAX_DOCUMENT_BYTES)}),
        # A snapshot carries a session's newest events. One partition: growth never leaves an older one in another.
        TopicSpec(names.snapshots, 1, "compact", -1, {"max.message.bytes": str(2 * MAX_EVENT_BYTES)}),
        TopicSpec(names.keys, 1, "compact", -1, dict(_FORGETS_WITHIN_A_DAY)),
        # A dead letter carries the whole original record and its reason on top.
        TopicSpec(names.dlq, partitions, "delete", 30 * DAY_MS, {"max.message.bytes": str(2 * MAX_EVENT_BYTES)}),
    ]
