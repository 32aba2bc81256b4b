"""Prometheus metrics of a process. Names follow Prometheus' conventions: base units, `_total` for counters."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from store.l1 import L1Cache
from store.protocol import SessionStore
from workers.observer import LockReason

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Everything that this process counts; also the observers that workers and ingress report to."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            registry.register(collector)
        self._turns = Histogram(
            "supportstream_turn_seconds",
            "From taking a record to its acknowledged reply, by outcome.",
            ["outcome"],
            buckets=SECONDS,
            registry=registry,
        )
        self._turns_by_outcome: dict[str, Histogram] = {}
        self._lock_path = Counter(
            "supportstream_lock_path_turns",
            "Turns that ran under the session lock because the partition gave no ownership, by reason.",
            ["reason"],
            registry=registry,
        )
        self._stale = Counter(
            "supportstream_stale_writes", "Writes refused because the session had moved on.", registry=registry
        )
        self._fenced = Counter(
            "supportstream_fenced_writes", "Writes refused because a later owner had written.", registry=registry
        )
        self._retries = Counter(
            "supportstream_turn_retries", "Turns tried again, by error.", ["error"], registry=registry
        )
        self._dead_letters = Counter(
            "supportstream_dead_letters", "Records in the dead letter topic, by reason.", ["reason"], registry=registry
        )
        self._republished = Counter(
            "supportstream_republished_replies", "Stored replies published again.", registry=registry
        )
        self._lost = Counter(
            "supportstream_records_lost",
            "Inbound records that retention removed before a worker read them.",
            registry=registry,
        )
        self._commit_failures = Counter(
            "supportstream_commit_failures", "Commits of offsets that failed, and were tried again.", registry=registry
        )
        self._poll_failures = Counter(
            "supportstream_poll_failures", "Polls of the Kafka client that raised and took nothing.", registry=registry
        )
        self._unreadable = Gauge(
            "supportstream_unreadable_partitions",
            "1 while the next record of a partition can't be decoded, by topic and partition.",
            ["topic", "partition"],
            registry=registry,
        )
        self._forgot = Counter(
            "supportstream_store_losses",
            "Times the store was seen to have lost writes, by sign.",
            ["sign"],
            registry=registry,
        )
        self._restored = Counter(
            "supportstream_sessions_restored", "Sessions put back from the reply topic.", registry=registry
        )
        self._cache_size = Gauge(
            "supportstream_l1_cache_sessions", "Sessions in the L1 cache.", ["cache"], registry=registry
        )
        self._cache_hit_rate = Gauge(
            "supportstream_l1_cache_hit_rate",
            "Share of reads since the start that the L1 cache answered.",
            ["cache"],
            registry=registry,
        )
        self._locks = Gauge("supportstream_locks_held", "Session locks that this process holds.", registry=registry)
        self._evicted = Gauge(
            "supportstream_redis_evicted_keys",
            "Keys that Redis dropped to free memory, since its masters started.",
            registry=registry,
        )
        self._foreign_members = Gauge(
            "supportstream_foreign_group_members",
            "Members of the workers' consumer group that are no workers.",
            registry=registry,
        )
        self._accepted = Counter(
            "supportstream_inbound_accepted", "Inbound events that Kafka acknowledged.", registry=registry
        )
        self._sockets = Gauge("supportstream_sockets", "Open WebSockets.", registry=registry)
        self._closed = Counter(
            "supportstream_sockets_closed", "WebSockets closed, by close code.", ["code"], registry=registry
        )
        self._refused = Counter(
            "supportstream_frames_refused",
            "WebSocket frames and handshakes refused, by code.",
            ["code"],
            registry=registry,
        )
        self._records_refused = Counter(
            "supportstream_reply_records_refused",
            "Records of the reply or delta topic that could not be delivered, by topic and reason.",
            ["topic", "reason"],
            registry=registry,
        )
        self._readers_replaced = Counter(
            "supportstream_readers_replaced",
            "Consumers of the reply or delta topic that failed and were replaced, by topic.",
            ["topic"],
            registry=registry,
        )
        self._fingerprint_mismatches = Counter(
            "supportstream_fingerprint_mismatches",
            "Sessions opened by a client that looks otherwise than the one they began with, by mode.",
            ["mode"],
            registry=registry,
        )

    def watch_cache(self, name: str, cache: L1Cache) -> None:
        """Shows the cache of sessions, `worker` or `ingress`."""
        self._cache_size.labels(name).set_function(lambda: len(cache))
        self._cache_hit_rate.labels(name).set_function(lambda: cache.describe()["l1_cache_hit_rate"])

    def watch_locks(self, store: SessionStore) -> None:
        self._locks.set_function(lambda: store.describe_locks()["active"])

    def redis_evicted(self, keys: int) -> None:
        self._evicted.set(keys)

    def foreign_members(self, count: int) -> None:
        self._foreign_members.set(count)

    def turn_finished(self, outcome: str, seconds: float) -> None:
        histogram = self._turns_by_outcome.get(outcome)
        if histogram is None:
            # Looking up a child by its label costs more than counting.
            histogram = self._turns_by_outcome[outcome] = self._turns.labels(outcome)
        histogram.observe(seconds)

    def lock_path(self, reason: LockReason) -> None:
        self._lock_path.labels(reason).inc()

    def stale_write(self) -> None:
        self._stale.inc()

    def fenced_write(self) -> None:
        self._fenced.inc()

    def retried(self, error: str) -> None:
        self._retries.labels(error).inc()

    def dead_letter(self, reason: str) -> None:
        self._dead_letters.labels(reason).inc()

    def republished(self) -> None:
        self._republished.inc()

    def records_lost(self, count: int) -> None:
        self._lost.inc(count)

    def commit_failed(self) -> None:
        self._commit_failures.inc()

    def poll_failed(self) -> None:
        self._poll_failures.inc()

    def partition_unreadable(self, topic: str, partition: int, unreadable: bool) -> None:
        self._unreadable.labels(topic, str(partition)).set(int(unreadable))

    def store_forgot(self, sign: str) -> None:
        self._forgot.labels(sign).inc()

    def sessions_restored(self, count: int) -> None:
        self._restored.inc(count)

    def inbound_accepted(self) -> None:
        self._accepted.inc()

    def socket_opened(self) -> None:
        self._sockets.inc()

    def socket_closed(self, code: int) -> None:
        self._sockets.dec()
        self._closed.labels(str(code)).inc()

    def frame_refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def record_refused(self, topic: str, reason: str) -> None:
        self._records_refused.labels(topic, reason).inc()

    def reader_replaced(self, topic: str) -> None:
        self._readers_replaced.labels(topic).inc()

    def fingerprint_mismatch(self, mode: str) -> None:
        self._fingerprint_mismatches.labels(mode).inc()

    def render(self) -> tuple[bytes, str]:
        """Body and content type of `/metrics`."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
