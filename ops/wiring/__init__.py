"""The composition root: from settings to the parts of a process. Nothing else constructs across packages.

Here is what several processes and the commands need. A worker's and an ingress's own parts are in modules of their own,
so that a command starts without what only they need.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from ops.errors import UsageError
from ops.kafka.connection import KafkaConnection
from ops.kafka.key_log import KafkaKeyLog
from ops.kafka.publisher import KafkaPublisher
from ops.replay.selection import Selection
from ops.settings import Settings
from schemas.publishing import Publisher
from schemas.topics import DAY_MS, TopicNames, TopicSpec, topic_specs
from store.direct import DirectSessions
from store.encryption import Cipher, PlainText, SessionCipher
from store.locking import LockSettings
from store.memory import MemorySessionStore
from store.protocol import SessionStore
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from store.redis.key_index import RedisKeyIndex
from store.redis.rotation import KeyRotation
from store.redis.working_copy import WorkingCopy
from store.rewrapping import KeyRewrapping
from store.sealing import SealingPublisher
from store.seals import NO_KEYS, Seals
from store.session_keys import SessionKeys
from workers.clock import utc_now

log = structlog.get_logger(__name__)


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


SEALING_SHARE = 0.5
"""How long sealing may take, of what sending may: mostly one round trip to Redis, and once a session one to Kafka."""
MAX_KEY_RECORD_BYTES = 16 * 1024
"""More than a record of the keys topic has."""


@asynccontextmanager
async def session_keys(settings: Settings, connection: KafkaConnection) -> AsyncIterator[Seals]:
    """What seals and opens the content of the topics, for the block. Without a key nothing is sealed."""
    if not settings.session_encryption_enabled or settings.session_encryption_key is None or settings.redis_url is None:
        yield NO_KEYS
        return
    async with _key_parts(settings, connection) as (cipher_of_keys, index, key_log):
        yield SessionKeys(cipher_of_keys, index, key_log, seals=settings.seals_topics)


@asynccontextmanager
async def _key_parts(
    settings: Settings, connection: KafkaConnection
) -> AsyncIterator[tuple[SessionCipher, RedisKeyIndex, KafkaKeyLog]]:
    if settings.redis_url is None:
        raise UsageError("REDIS_URL is not set; the keys of sessions are kept in Redis and in the keys topic")
    index = RedisKeyIndex(
        connect(redis_settings(settings, settings.redis_url.get_secret_value())),
        key_prefix=settings.redis_session_key_prefix,
    )
    kafka = publisher(settings, connection, max_record_bytes=MAX_KEY_RECORD_BYTES)
    try:
        key_log = KafkaKeyLog(connection, kafka, topic_names(settings).keys)
        yield SessionCipher(settings.encryption_keys()), index, key_log
    finally:
        await kafka.close()
        await index.close()


@asynccontextmanager
async def key_rewrapping(settings: Settings) -> AsyncIterator[KeyRewrapping | None]:
    """The rotation of the master key around the keys of sessions, for the block. None: there are none, or (no
    KAFKA_BOOTSTRAP_SERVERS) it can't be known."""
    if settings.kafka_bootstrap_servers is None:
        yield None
        return
    connection = kafka_connection(settings)
    async with _key_parts(settings, connection) as (cipher_of_keys, index, key_log):
        if not await key_log.exists():
            yield None
            return
        await SessionKeys(cipher_of_keys, index, key_log).verify_index()
        yield KeyRewrapping(cipher_of_keys, index, key_log)


def sealing(settings: Settings, kafka: KafkaPublisher, seals: Seals) -> Publisher:
    """What publishes content of sessions."""
    if seals is NO_KEYS:
        return kafka
    return SealingPublisher(kafka, seals, timeout_seconds=settings.kafka_send_timeout_seconds * SEALING_SHARE)


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
    settings: Settings, *, store: SessionStore, kafka: KafkaPublisher, seals: Seals, partitions: int
) -> DirectSessions:
    """Writes to `store` beside the workers. `partitions` are those of the reply topic."""

    def now() -> tuple[int, str]:
        moment = utc_now()
        return moment.ms, moment.rfc3339

    return DirectSessions(
        store,
        sealing(settings, kafka, seals),
        reply_topic=topic_names(settings).replies,
        partitions=partitions,
        now=now,
        seals=seals,
    )
