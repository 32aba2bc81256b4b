"""The composition root: from settings to the parts of a process. Nothing else constructs across packages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from ingress.access import SessionAccess
from ingress.client_address import TrustedProxies
from ingress.delivery import Delivery
from ingress.edge import Edge
from ingress.facts import Facts
from ingress.fingerprints import Fingerprints
from ingress.growth import Growth
from ingress.homes import Homes
from ingress.inbound import InboundPublisher
from ingress.origins import OriginPolicy
from ingress.socket import SocketParts, SocketSettings
from ingress.tokens import SessionTokens
from ingress.topic_reader import TopicReader
from ops.errors import UsageError
from ops.kafka.connection import KafkaConnection
from ops.kafka.publisher import KafkaPublisher
from ops.metrics import Metrics
from ops.replay.selection import Selection
from ops.settings import Settings
from schemas.topics import DAY_MS, MAX_EVENT_BYTES, TopicNames, TopicSpec, topic_specs
from store.cached import MAX_AGE_SECONDS, CachedReads
from store.direct import DirectSessions
from store.encryption import Cipher, PlainText, SessionCipher
from store.l1 import L1Cache
from store.locking import LockSettings
from store.memory import MemorySessionStore
from store.protocol import SessionStore
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from store.redis.rotation import KeyRotation
from store.redis.working_copy import WorkingCopy
from workers.app import GroupSettings
from workers.cancellations import Cancellations
from workers.clock import utc_now, utc_now_rfc3339
from workers.dead_letters import DeadLetters
from workers.dispatch import Dispatcher, DispatchSettings
from workers.generation.extractive import ExtractiveGenerator
from workers.generation.null import NullGenerator
from workers.generation.protocol import Generator, Retriever
from workers.incarnations import Incarnations
from workers.marks import ReplyMarks
from workers.records import Partition
from workers.recovery import ResilientTurns, RetrySettings
from workers.repair import StoreRepair
from workers.rights import Consumer
from workers.turn import TurnParts, TurnProcessor

log = structlog.get_logger(__name__)

FACT_WAIT_SECONDS = 10.0
"""How long the ingress waits for what a worker makes of a claim, or of a change of a session."""


def topic_names(settings: Settings) -> TopicNames:
    return TopicNames(settings.topic_prefix)


def topic_specs_of(settings: Settings) -> list[TopicSpec]:
    """The topics as they should be."""
    days = settings.topic_replies_retention_days
    return topic_specs(topic_names(settings), settings.topic_partitions, int(days * DAY_MS) if days else -1)


def kafka_connection(settings: Settings) -> KafkaConnection:
    """Raises UsageError when no broker is set."""
    if settings.kafka_bootstrap_servers is None:
        raise UsageError("KAFKA_BOOTSTRAP_SERVERS is not set; `supportstream dev` runs without a broker of yours")
    password = settings.kafka_sasl_password
    return KafkaConnection(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        security_protocol=settings.kafka_security_protocol,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        sasl_username=settings.kafka_sasl_username,
        sasl_password=password.get_secret_value() if password else None,
        ssl_cafile=settings.kafka_ssl_cafile,
        idempotent_producer=settings.kafka_idempotent_producer,
    )


def publisher(settings: Settings, connection: KafkaConnection, *, max_record_bytes: int) -> KafkaPublisher:
    timeout = settings.kafka_send_timeout_seconds
    return KafkaPublisher(
        lambda: connection.producer(
            request_timeout_ms=int(timeout * 1000), max_request_bytes=max_record_bytes + 64 * 1024
        ),
        timeout_seconds=timeout,
        max_record_bytes=max_record_bytes,
    )


def session_store(settings: Settings, *, watch_for_loss: bool = False) -> SessionStore:
    """The store, not connected yet. `watch_for_loss` for a writer: as `store.redis.connect.RedisSettings` says."""
    if settings.redis_url is None:
        # Nothing of it is at rest anywhere.
        return MemorySessionStore(ttl_seconds=settings.session_timeout_seconds, lock=lock_settings(settings))
    return redis_session_store(settings, settings.redis_url.get_secret_value(), watch_for_loss=watch_for_loss)


def lock_settings(settings: Settings) -> LockSettings | None:
    if not settings.session_locking_enabled:
        return None
    return LockSettings(settings.session_lock_timeout_seconds, settings.session_lock_retry_attempts)


def redis_session_store(settings: Settings, url: str, *, watch_for_loss: bool) -> RedisSessionStore:
    return RedisSessionStore(
        connect(redis_settings(settings, url, watch_for_loss=watch_for_loss)),
        ttl_seconds=settings.redis_session_ttl_seconds,
        key_prefix=settings.redis_session_key_prefix,
        lock=lock_settings(settings),
        lock_nodes=[connect(redis_settings(settings, url)).client for url in settings.redlock_urls],
        cipher=cipher(settings),
    )


def cipher(settings: Settings) -> Cipher:
    keys = settings.encryption_keys()
    if keys and settings.session_encryption_key is None:
        log.warning("encryption_key_made_up", hint="this run's sessions end with it; set SESSION_ENCRYPTION_KEY")
    return SessionCipher(keys) if keys else PlainText()


def redis_settings(settings: Settings, url: str, *, watch_for_loss: bool = False) -> RedisSettings:
    return RedisSettings(
        url=url,
        max_connections=settings.redis_max_connections,
        socket_timeout=settings.redis_socket_timeout,
        socket_connect_timeout=settings.redis_socket_connect_timeout,
        retry_on_timeout=settings.redis_retry_on_timeout,
        health_check_interval=settings.redis_health_check_interval,
        wait_replicas=settings.redis_wait_replicas,
        watch_for_loss=watch_for_loss,
        ca_file=settings.redis_ssl_ca_file,
        cert_file=settings.redis_ssl_cert_file,
        key_file=settings.redis_ssl_key_file,
    )


def shared_session_store(settings: Settings, *, watch_for_loss: bool = False) -> RedisSessionStore:
    """The store of a process that is not alone. Raises UsageError for the in-memory one, which nobody else sees."""
    if settings.redis_url is None:
        raise UsageError("REDIS_URL is not set; ingress and workers in separate processes share sessions in Redis")
    if settings.session_encryption_enabled and settings.session_encryption_key is None:
        raise UsageError(
            "SESSION_ENCRYPTION_KEY is not set; processes that share sessions need the same one: "
            "supportstream keys generate"
        )
    return redis_session_store(settings, settings.redis_url.get_secret_value(), watch_for_loss=watch_for_loss)


WORKING_COPY_SECONDS = 6 * 3600.0
"""So long a replay that was killed can go on; then Redis forgets its working copy."""


def working_copy(settings: Settings, selection: Selection, *, whole: bool) -> WorkingCopy:
    """What a replay of these sessions works on. Raises UsageError without Redis."""
    if settings.redis_url is None:
        raise UsageError("REDIS_URL is not set; an in-memory store ends with its process, there is nothing to rebuild")
    return WorkingCopy(
        connect(redis_settings(settings, settings.redis_url.get_secret_value())),
        live_prefix=settings.redis_session_key_prefix,
        name=f"{selection.name}{'' if whole else 'd'}",
        cipher=cipher(settings),
        whole=whole,
        keep_seconds=WORKING_COPY_SECONDS,
    )


def key_rotation(settings: Settings) -> KeyRotation:
    """Raises UsageError where there is nothing to rotate, or no key."""
    if settings.redis_url is None:
        raise UsageError("REDIS_URL is not set; only what Redis keeps is encrypted")
    if not settings.session_encryption_enabled:
        raise UsageError("SESSION_ENCRYPTION_ENABLED is not true; with it, and SESSION_ENCRYPTION_KEY, keys can rotate")
    if settings.session_encryption_key is None:
        raise UsageError("SESSION_ENCRYPTION_KEY is not set; make one: supportstream keys generate")
    return KeyRotation(
        connect(redis_settings(settings, settings.redis_url.get_secret_value())),
        key_prefix=settings.redis_session_key_prefix,
        cipher=SessionCipher(settings.encryption_keys()),
    )


def direct_sessions(
    settings: Settings, *, store: SessionStore, kafka: KafkaPublisher, partitions: int
) -> DirectSessions:
    """Writes to `store` beside the workers. `partitions` are those of the reply topic."""

    def now() -> tuple[int, str]:
        moment = utc_now()
        return moment.ms, moment.rfc3339

    return DirectSessions(store, kafka, reply_topic=topic_names(settings).replies, partitions=partitions, now=now)


def generator_of(settings: Settings) -> Generator:
    """What makes the answers."""
    if settings.generator == "null":
        return NullGenerator()
    return ExtractiveGenerator(pace_words_per_second=settings.answer_pace_words_per_second)


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """A worker, ready to be fed."""

    dispatcher: Dispatcher
    turns: TurnProcessor
    l1: L1Cache


def worker_parts(
    settings: Settings,
    *,
    store: SessionStore,
    kafka: KafkaPublisher,
    generator: Generator,
    retriever: Retriever | None,
    consumer: Consumer,
    connection: KafkaConnection,
    observer: Metrics,
) -> WorkerParts:
    topics = topic_names(settings)
    l1 = L1Cache(
        size=settings.session_l1_cache_size if settings.session_l1_cache_enabled else 0,
        ttl_seconds=settings.session_l1_cache_ttl_seconds,
    )
    cancellations = Cancellations()
    incarnations = Incarnations(store)
    marks = ReplyMarks(topics.inbound)
    turns = TurnProcessor(
        TurnParts(
            store=store,
            l1=l1,
            publisher=kafka,
            topics=topics,
            retriever=retriever,
            generator=generator,
            cancellations=cancellations,
            observer=observer,
            marks=marks,
            lock_everything=settings.ordering == "lock",
        )
    )

    async def learn_partitions(assigned: Iterable[Partition]) -> None:
        # The broker that is asked may know less than the one that divided the partitions.
        known = 1 + max((each.partition for each in assigned if each.topic == topics.inbound), default=-1)
        turns.partitions = max(known, await kafka.partitions_of(topics.inbound))

    resilient = ResilientTurns(
        turns, DeadLetters(kafka, topics.dlq), observer, RetrySettings(attempts=settings.turn_attempts)
    )
    dispatcher = Dispatcher(
        run_turn=resilient.run,
        store=store,
        l1=l1,
        cancellations=cancellations,
        consumer=consumer,
        repair=StoreRepair(
            store,
            connection.span_reader,
            inbound_topic=topics.inbound,
            reply_topic=topics.replies,
            partitions=lambda: turns.partitions,
            incarnations=incarnations,
            observer=observer,
        ),
        marks=marks,
        incarnations=incarnations,
        learn_partitions=learn_partitions,
        settle_publishing=kafka.settle,
        observer=observer,
        settings=DispatchSettings(
            concurrency=settings.worker_concurrency,
            max_open_per_partition=settings.worker_max_open_per_partition,
            drain_timeout=settings.worker_drain_seconds,
            publish_seconds=settings.kafka_send_timeout_seconds,
        ),
    )
    return WorkerParts(dispatcher, turns, l1)


def group_settings(settings: Settings, connection: KafkaConnection) -> GroupSettings:
    return GroupSettings(
        bootstrap_servers=connection.bootstrap_servers,
        topics=(topic_names(settings).inbound, *settings.extra_inbound_topics),
        group_id=settings.consumer_group,
        instance_id=settings.worker_instance_id,
        session_timeout_ms=settings.worker_session_timeout_ms,
        heartbeat_interval_ms=max(300, settings.worker_session_timeout_ms // 4),
        fetch_max_wait_ms=connection.fetch_arguments()["fetch_max_wait_ms"],
        metadata_max_age_ms=int(settings.kafka_metadata_max_age_seconds * 1000),
        security=_faststream_security(connection),
    )


def _faststream_security(connection: KafkaConnection) -> BaseSecurity | None:
    arguments = connection.client_arguments()
    ssl_context = arguments.get("ssl_context")
    if not connection.security_protocol.startswith("SASL_"):
        return BaseSecurity(ssl_context=ssl_context) if ssl_context else None
    kind = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}[
        connection.sasl_mechanism
    ]
    return kind(connection.sasl_username or "", connection.sasl_password or "", ssl_context=ssl_context)


@dataclass(frozen=True, slots=True)
class EdgeSide:
    """The ingress without its HTTP shell."""

    edge: Edge
    homes: Homes
    access: SessionAccess
    facts: Facts
    delivery: Delivery
    origins: OriginPolicy
    reads: CachedReads
    cache: L1Cache


def edge_side(
    settings: Settings, *, store: SessionStore, kafka: KafkaPublisher, partitions: int, metrics: Metrics
) -> EdgeSide:
    cache = L1Cache(
        size=settings.session_l1_cache_size if settings.session_l1_cache_enabled else 0,
        ttl_seconds=min(settings.session_l1_cache_ttl_seconds, MAX_AGE_SECONDS),
    )
    reads = CachedReads(store, cache)
    delivery = Delivery(reads.forget)
    homes = Homes(partitions)
    inbound = InboundPublisher(kafka, topic_names(settings), homes, utc_now_rfc3339, metrics.inbound_accepted)
    facts = Facts(inbound, delivery, reads)
    tokens = SessionTokens(settings.signing_secret(), ttl_seconds=settings.token_ttl_seconds)
    fingerprints = Fingerprints(settings.fingerprinting, TrustedProxies(settings.trusted_proxies), reads, metrics)
    access = SessionAccess(tokens, facts, reads, FACT_WAIT_SECONDS, fingerprints)
    origins = OriginPolicy(frozenset(settings.cors_origins))
    edge = Edge(
        SocketParts(
            access=access,
            inbound=inbound,
            delivery=delivery,
            store=reads,
            observer=metrics,
            settings=SocketSettings(outbox_frames=settings.socket_outbox_frames),
        ),
        origins,
    )
    return EdgeSide(edge, homes, access, facts, delivery, origins, reads, cache)


def growth(
    settings: Settings,
    connection: KafkaConnection,
    *,
    store: SessionStore,
    kafka: KafkaPublisher,
    homes: Homes,
    readers: Sequence[TopicReader],
) -> Growth:
    """Follows the topics when partitions are added."""
    inbound = topic_names(settings).inbound
    incarnations = Incarnations(store)

    async def log_ends(count: int) -> Mapping[int, int]:
        consumer = connection.span_reader()
        try:
            await consumer.start()
            ends = await consumer.end_offsets([TopicPartition(inbound, number) for number in range(count)])
            return {place.partition: offset for place, offset in ends.items()}
        finally:
            await consumer.stop()

    async def done_below(count: int) -> Mapping[int, int]:
        await incarnations.learn([inbound])
        keys = {f"{incarnations.name(inbound)}:{number}": number for number in range(count)}
        return {keys[key]: offset for key, offset in (await store.progress(list(keys))).items()}

    return Growth(
        inbound_topic=inbound,
        homes=homes,
        readers=readers,
        count=kafka.partitions_of,
        log_ends=log_ends,
        done_below=done_below,
        interval=settings.kafka_metadata_max_age_seconds,
    )


def knowledge_consumer(connection: KafkaConnection) -> Callable[[], AIOKafkaConsumer]:
    return lambda: connection.reader(auto_offset_reset="earliest", max_partition_fetch_bytes=16 * 1024 * 1024)


WORKER_RECORD_BYTES = 2 * MAX_EVENT_BYTES
"""A dead letter is an inbound record with its reason on top."""
