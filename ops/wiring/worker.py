"""A worker's parts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from ops.kafka.connection import KafkaConnection
from ops.kafka.publisher import KafkaPublisher
from ops.kafka.screened_consumer import ScreenedConsumer
from ops.metrics import Metrics
from ops.settings import Settings
from ops.wiring import SEALING_SHARE, sealing, topic_names
from schemas.topics import MAX_EVENT_BYTES
from store.l1 import L1Cache
from store.protocol import SessionStore
from store.seals import NO_KEYS, Seals
from workers.app import GroupSettings, WorkerApp
from workers.cancellations import Cancellations
from workers.dead_letters import DeadLetters
from workers.dispatch import Dispatcher, DispatchSettings
from workers.generation.protocol import Generator, Retriever
from workers.incarnations import Incarnations
from workers.marks import ReplyMarks
from workers.records import Partition
from workers.recovery import ResilientTurns, RetrySettings
from workers.repair import StoreRepair
from workers.rights import Consumer
from workers.turn import TurnParts, TurnProcessor

WORKER_RECORD_BYTES = 2 * MAX_EVENT_BYTES
"""A dead letter is an inbound record with its reason on top."""


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
    seals: Seals,
    generator: Generator,
    retriever: Retriever | None,
    consumer: Consumer,
    connection: KafkaConnection,
    observer: Metrics,
) -> WorkerParts:
    topics = topic_names(settings)
    publisher = sealing(settings, kafka, seals)
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
            publisher=publisher,
            topics=topics,
            retriever=retriever,
            generator=generator,
            cancellations=cancellations,
            observer=observer,
            marks=marks,
            seals=seals,
            lock_everything=settings.ordering == "lock",
        )
    )

    async def learn_partitions(assigned: Iterable[Partition]) -> None:
        # The broker that is asked may know less than the one that divided the partitions.
        known = 1 + max((each.partition for each in assigned if each.topic == topics.inbound), default=-1)
        turns.partitions = max(known, await kafka.partitions_of(topics.inbound))

    resilient = ResilientTurns(
        turns,
        DeadLetters(publisher, topics.dlq, shows_content=not settings.seals_topics),
        observer,
        RetrySettings(attempts=settings.turn_attempts),
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
            seals=seals,
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
            publish_seconds=settings.kafka_send_timeout_seconds * (1.0 if seals is NO_KEYS else 1.0 + SEALING_SHARE),
        ),
    )
    return WorkerParts(dispatcher, turns, l1)


def group_settings(settings: Settings, connection: KafkaConnection) -> GroupSettings:
    """Membership in the group, read by the consumer that takes all or nothing."""
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
        consumer_class=ScreenedConsumer,
    )


def member_id(app: WorkerApp) -> str:
    """The worker's member id in its group; empty while it has none. aiokafka has no public name for it."""
    if app.app.broker is None:
        return ""
    for subscriber in app.app.broker.subscribers:
        coordinator = getattr(getattr(subscriber, "consumer", None), "_coordinator", None)
        return str(getattr(coordinator, "member_id", ""))
    return ""


def _faststream_security(connection: KafkaConnection) -> BaseSecurity | None:
    arguments = connection.client_arguments()
    ssl_context = arguments.get("ssl_context")
    if not connection.security_protocol.startswith("SASL_"):
        return BaseSecurity(ssl_context=ssl_context) if ssl_context else None
    kind = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}[
        connection.sasl_mechanism
    ]
    return kind(connection.sasl_username or "", connection.sasl_password or "", ssl_context=ssl_context)


def knowledge_consumer(connection: KafkaConnection) -> Callable[[], AIOKafkaConsumer]:
    return lambda: connection.reader(auto_offset_reset="earliest", max_partition_fetch_bytes=16 * 1024 * 1024)
