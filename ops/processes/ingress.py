"""The ingress process."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from ingress.app import IngressParts, WithSockets, create_app
from ingress.edge import Edge
from ingress.health import Check
from ingress.topic_reader import KeyAndValue, TopicReader
from ops import wiring
from ops.background import in_background
from ops.errors import OpsError
from ops.eviction import evictions_counted, refuse_eviction
from ops.kafka.connection import KafkaConnection
from ops.kafka.topic_limits import topic_limits
from ops.metrics import Metrics
from ops.settings import Settings
from ops.store_report import store_report
from ops.wiring import ingress as ingress_wiring
from schemas.publishing import PublishError
from schemas.sealed import is_sealed
from schemas.topics import MAX_EVENT_BYTES
from store.errors import StoreError
from store.protocol import SessionStore
from store.seals import Seals

log = structlog.get_logger(__name__)


@asynccontextmanager
async def ingress_app(
    settings: Settings,
    connection: KafkaConnection,
    store: SessionStore,
    seals: Seals,
    metrics: Metrics,
    worker_checks: dict[str, Check] | None = None,
) -> AsyncIterator[tuple[WithSockets, Edge]]:
    """The application, connected. `worker_checks` are those of a worker in the same process.

    Raises:
        OpsError: the broker, a topic or the store is missing.
    """
    topics = wiring.topic_names(settings)
    kafka = wiring.publisher(settings, connection, max_record_bytes=MAX_EVENT_BYTES)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(kafka.close)
            await store.ping()
            await refuse_eviction(settings, store)
            await kafka.start()
            partitions = await kafka.partitions_of(topics.inbound)
            if settings.seals_topics:
                await kafka.partitions_of(topics.keys)
            await topic_limits(connection, topics, settings.extra_inbound_topics)
            publisher = wiring.sealing(settings, kafka, seals)
            side = ingress_wiring.edge_side(
                settings, store=store, publisher=publisher, partitions=partitions, metrics=metrics
            )
            metrics.watch_cache("ingress", side.cache)

            def consumer() -> AIOKafkaConsumer:
                # Where a position is no longer in the log, as after a topic was created again, nothing that is there is
                # passed over; a socket drops what its client has.
                return connection.reader(auto_offset_reset="earliest")

            async def log_ends(topic: str, partitions: Collection[int]) -> Mapping[int, int]:
                return await ingress_wiring.log_ends(connection, topic, partitions)

            def moves(key: bytes | None, value: bytes | None) -> None:
                growth.replied(key, value)

            async def opened(records: Sequence[KeyAndValue]) -> list[bytes | None]:
                """Only what somebody here waits for; the rest stays as it is, and costs nothing."""
                values = [value for _, value in records]
                meant = [
                    place
                    for place, (key, value) in enumerate(records)
                    if is_sealed(value) and (side.delivery.waits_for(key) or growth.waits_for(key))
                ]
                found = await seals.opened([values[place] for place in meant], without_wrong_keys=True)
                for place, value in zip(meant, found, strict=True):
                    values[place] = value
                return values

            # Two consumers: a reply must not wait for the fetch that looks for deltas.
            replies = TopicReader(
                consumer, topics.replies, opened, (moves, side.delivery.reply), log_ends=log_ends, observer=metrics
            )
            deltas = TopicReader(
                consumer, topics.deltas, opened, (side.delivery.delta,), log_ends=log_ends, observer=metrics
            )
            growth = ingress_wiring.growth(
                settings, connection, store=store, kafka=kafka, homes=side.homes, readers=(replies, deltas)
            )
            for reader in (replies, deltas):
                stack.push_async_callback(reader.stop)
                await reader.start(partitions)
            if settings.token_secret is None:
                log.warning("token_secret_made_up", hint="tokens end with this process; set TOKEN_SECRET to keep them")

            async def replies_are_read() -> None:
                if not (replies.running and deltas.running):
                    raise OpsError("the reader of the reply or delta topic has stopped; restart this process")

            async def describe() -> dict[str, object]:
                return {
                    "name": "supportstream",
                    "version": version("supportstream"),
                    "environment": settings.environment,
                    "status": "running",
                    "features": ["websocket", "chat", "sessions", "resume", "chat page"],
                    "sockets": side.edge.sockets,
                    "session_store": store_report(
                        settings, await store.get_stats(), store.describe_locks(), side.cache
                    ),
                }

            parts = IngressParts(
                edge=side.edge,
                access=side.access,
                facts=side.facts,
                store=side.reads,
                origins=side.origins,
                ready={
                    "kafka": kafka.check,
                    "session_store": store.ping,
                    "replies": replies.check,
                    "deltas": deltas.check,
                    **(worker_checks or {}),
                },
                live={"reply_reader": replies_are_read},
                describe=describe,
                metrics=metrics.render,
                fact_wait_seconds=ingress_wiring.FACT_WAIT_SECONDS,
            )
            app = create_app(
                parts, version=version("supportstream"), api_prefix=settings.api_prefix, debug=settings.debug
            )
            await stack.enter_async_context(in_background(growth.run(), "follow-partitions"))
            await stack.enter_async_context(evictions_counted(store, metrics.redis_evicted))
            yield app, side.edge
    except (PublishError, StoreError, KafkaError) as error:
        raise OpsError(str(error) or type(error).__name__) from error
