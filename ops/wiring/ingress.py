"""An ingress's parts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition

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
from ops.kafka.connection import KafkaConnection
from ops.kafka.publisher import KafkaPublisher
from ops.metrics import Metrics
from ops.settings import Settings
from ops.wiring import topic_names
from schemas.publishing import Publisher
from store.cached import MAX_AGE_SECONDS, CachedReads
from store.l1 import L1Cache
from store.protocol import SessionStore
from workers.clock import utc_now_rfc3339
from workers.incarnations import Incarnations

FACT_WAIT_SECONDS = 10.0
"""How long the ingress waits for what a worker makes of a claim, or of a change of a session."""


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
    settings: Settings, *, store: SessionStore, publisher: Publisher, partitions: int, metrics: Metrics
) -> EdgeSide:
    cache = L1Cache(
        size=settings.session_l1_cache_size if settings.session_l1_cache_enabled else 0,
        ttl_seconds=min(settings.session_l1_cache_ttl_seconds, MAX_AGE_SECONDS),
    )
    reads = CachedReads(store, cache)
    delivery = Delivery(reads.forget)
    homes = Homes(partitions)
    inbound = InboundPublisher(publisher, topic_names(settings), homes, utc_now_rfc3339, metrics.inbound_accepted)
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


async def log_ends(connection: KafkaConnection, topic: str, partitions: Collection[int]) -> dict[int, int]:
    """Per partition where its log ends now, asked over a connection of its own. Raises KafkaError."""
    consumer = connection.span_reader()
    try:
        await consumer.start()
        ends = await consumer.end_offsets([TopicPartition(topic, number) for number in partitions])
        return {place.partition: offset for place, offset in ends.items()}
    finally:
        await consumer.stop()


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

    async def inbound_ends(count: int) -> Mapping[int, int]:
        return await log_ends(connection, inbound, range(count))

    async def done_below(count: int) -> Mapping[int, int]:
        await incarnations.learn([inbound])
        keys = {f"{incarnations.name(inbound)}:{number}": number for number in range(count)}
        return {keys[key]: offset for key, offset in (await store.progress(list(keys))).items()}

    return Growth(
        inbound_topic=inbound,
        homes=homes,
        readers=readers,
        count=kafka.partitions_of,
        log_ends=inbound_ends,
        done_below=done_below,
        interval=settings.kafka_metadata_max_age_seconds,
    )
