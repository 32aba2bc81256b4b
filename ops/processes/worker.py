"""The worker process."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import KafkaError

from ops import wiring
from ops.errors import OpsError
from ops.eviction import evictions_counted, refuse_eviction
from ops.kafka.connection import KafkaConnection
from ops.kafka.group_members import explain_group_error
from ops.kafka.topic_limits import topic_limits
from ops.kafka.topics import TopicAdmin
from ops.logs import quiet_faststream
from ops.metrics import Metrics
from ops.processes.group_watch import GroupWatch, members_of
from ops.processes.key_upkeep import keys_kept_up
from ops.processes.snapshots import snapshot_command, snapshots_regularly
from ops.settings import Settings
from ops.store_report import guards
from ops.wiring import worker as worker_wiring
from ops.wiring.generation import generator_of
from schemas.publishing import PublishError
from schemas.topics import MAX_EVENT_BYTES, TopicNames
from store.errors import StoreError
from store.l1 import L1Cache
from store.protocol import SessionStore
from store.seals import NO_KEYS, Seals
from workers.app import GroupSettings, WorkerApp
from workers.dispatch import Dispatcher
from workers.errors import ClientBroken
from workers.generation.protocol import Generator, Retriever
from workers.records import Partition

if TYPE_CHECKING:
    from workers.retrieval.embedder import Embedder

log = structlog.get_logger(__name__)

REPLY_FRAMING_BYTES = 1_024
"""More than key, headers and the batch around a reply take."""


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """What the health report reads of a worker at work."""

    dispatcher: Dispatcher
    app: WorkerApp
    knowledge: Callable[[], dict[str, object]]
    check_kafka: Callable[[], Awaitable[None]]
    cache: L1Cache
    check_store: Callable[[], Awaitable[None]]
    stall_seconds: float
    check_group: Callable[[], Awaitable[None]]

    async def live(self) -> None:
        """Raises OpsError when records are open and none was committed for `stall_seconds`, although broker and store
        answer: then only a restart helps. While one of them is away, it would not."""
        stalled = self.dispatcher.stalled_seconds(time.monotonic())
        if stalled <= self.stall_seconds:
            return
        try:
            await self.check_kafka()
            await self.check_store()
        except (PublishError, StoreError):
            return
        raise OpsError(f"{self.dispatcher.open_records} records are open and none was committed for {stalled:.0f} s")

    async def ready(self) -> None:
        """Raises OpsError while a partition can't be worked on, or records wait and nothing is done."""
        if problems := self.app.problems():
            raise OpsError("; ".join(problems))


@dataclass(frozen=True, slots=True)
class _Brain:
    generator: Generator
    retriever: Retriever | None
    knowledge: Callable[[], dict[str, object]]


@asynccontextmanager
async def running_worker(
    settings: Settings,
    connection: KafkaConnection,
    store: SessionStore,
    seals: Seals,
    metrics: Metrics,
    embedder: "Embedder | None" = None,
    *,
    on_failure: Callable[[Exception], None],
) -> AsyncIterator[RunningWorker]:
    """A worker in the group, from ready until drained. Without an `embedder` it loads and closes its own. `on_failure`
    is told when it can't go on; then end the process.

    Raises:
        OpsError: the broker, a topic, the store or the model is missing.
    """
    quiet_faststream()
    topics = wiring.topic_names(settings)
    kafka = wiring.publisher(settings, connection, max_record_bytes=worker_wiring.WORKER_RECORD_BYTES)
    group = worker_wiring.group_settings(settings, connection)
    app = _member(settings, group, metrics, on_failure)
    watch = GroupWatch(
        settings,
        lambda: members_of(connection, settings.consumer_group),
        client_id=group.client_id,
        member_id=lambda: worker_wiring.member_id(app),
        show=metrics.foreign_members,
        fail=on_failure,
    )
    try:
        await store.ping()
        await refuse_eviction(settings, store)
        await store.test_locks()
        await kafka.start()
        await kafka.partitions_of(topics.inbound)
        if settings.seals_topics:
            await kafka.partitions_of(topics.keys)
        async with _brain(settings, connection, topics, embedder) as brain:
            parts = worker_wiring.worker_parts(
                settings,
                store=store,
                kafka=kafka,
                seals=seals,
                generator=brain.generator,
                retriever=brain.retriever,
                consumer=app.consumer,
                connection=connection,
                observer=metrics,
            )

            metrics.watch_cache("worker", parts.l1)
            metrics.watch_locks(store)
            parts.turns.max_reply_bytes = await _largest_reply(connection, topics.replies)
            await topic_limits(connection, topics, settings.extra_inbound_topics)
            async with (
                _at_work(app, parts.dispatcher, {**_described(settings), **brain.knowledge()}),
                _snapshots(settings, parts.dispatcher),
                _key_upkeep(settings, parts.dispatcher, seals),
                evictions_counted(store, metrics.redis_evicted),
                watch.watching(),
            ):
                yield RunningWorker(
                    parts.dispatcher,
                    app,
                    brain.knowledge,
                    kafka.check,
                    parts.l1,
                    store.ping,
                    settings.worker_stall_seconds,
                    watch.ready,
                )
    except (PublishError, StoreError, KafkaError) as error:
        raise OpsError(explain_group_error(error, settings) or str(error) or type(error).__name__) from error
    finally:
        await kafka.close()


def _member(
    settings: Settings, group: GroupSettings, metrics: Metrics, on_failure: Callable[[Exception], None]
) -> WorkerApp:
    """The worker as a member of its group; `on_failure` is told why it can't go on, in words for a person."""

    def is_fatal(error: Exception) -> bool:
        return isinstance(error, ClientBroken) or explain_group_error(error, settings) is not None

    def explained(error: Exception) -> OpsError:
        return OpsError(explain_group_error(error, settings) or f"The worker can't go on: {error}")

    app = WorkerApp(group, metrics, is_fatal=is_fatal)
    app.failed.add_done_callback(lambda failed: on_failure(explained(failed.result())))
    return app


@asynccontextmanager
async def _at_work(app: WorkerApp, dispatcher: Dispatcher, described: dict[str, object]) -> AsyncIterator[None]:
    """A member of the group while the block runs; drained after it."""
    try:
        await app.start(dispatcher)
    except BaseException:
        await app.stop()
        raise
    log.info("worker_started", **described)
    try:
        yield
    finally:
        await app.stop()
        log.info("worker_stopped")


def _snapshots(settings: Settings, dispatcher: Dispatcher) -> AbstractAsyncContextManager[None]:
    if not settings.snapshot_interval_seconds or settings.redis_url is None:
        return nullcontext()
    return snapshots_regularly(
        snapshot_command(settings), settings.snapshot_interval_seconds, lambda: _is_first(settings, dispatcher)
    )


def _key_upkeep(settings: Settings, dispatcher: Dispatcher, seals: Seals) -> AbstractAsyncContextManager[None]:
    """Also where nothing is sealed any more: what was may still be erased."""
    if seals is NO_KEYS:
        return nullcontext()
    return keys_kept_up(seals, lambda: _is_first(settings, dispatcher))


def _is_first(settings: Settings, dispatcher: Dispatcher) -> bool:
    """Whether this is the worker that does what one of all shall do."""
    return Partition(wiring.topic_names(settings).inbound, 0) in dispatcher.assignments


async def _largest_reply(connection: KafkaConnection, topic: str) -> int:
    async with TopicAdmin(connection) as admin:
        limit = await admin.max_message_bytes(topic)
    if limit is None or limit >= MAX_EVENT_BYTES + REPLY_FRAMING_BYTES:
        return MAX_EVENT_BYTES
    log.warning("reply_topic_takes_little", topic=topic, max_message_bytes=limit, hint="supportstream topics check")
    return max(0, limit - REPLY_FRAMING_BYTES)


def _described(settings: Settings) -> dict[str, object]:
    return {
        "store": settings.store_type,
        "ordering": settings.ordering,
        "locking": "for records outside their home partition" if settings.session_locking_enabled else "off",
        **guards(settings),
        "generator": settings.generator,
        "concurrency": settings.worker_concurrency,
    }


@asynccontextmanager
async def _brain(
    settings: Settings, connection: KafkaConnection, topics: TopicNames, given: "Embedder | None"
) -> AsyncIterator[_Brain]:
    generator = generator_of(settings)
    if not generator.retrieves:
        yield _Brain(generator, None, dict)
        return
    # Only a worker that retrieves needs torch; importing it takes seconds.
    from workers.retrieval.follow import KnowledgeFollower
    from workers.retrieval.knowledge import KnowledgeState
    from workers.retrieval.retriever import KnowledgeRetriever

    embedder = given or await load_embedder(settings)
    follower = KnowledgeFollower(
        topics.knowledge,
        worker_wiring.knowledge_consumer(connection),
        lambda: KnowledgeState(embedder.name, embedder.dimensions),
    )
    follower.start()
    try:
        await follower.ready()
        if not len(follower.index):
            log.warning("knowledge_empty", hint="supportstream knowledge add FILE…")

        def knowledge() -> dict[str, object]:
            index = follower.index
            return {"documents": index.documents, "passages": len(index), "kb_version": index.kb_version}

        yield _Brain(generator, KnowledgeRetriever(embedder, lambda: follower.index), knowledge)
    finally:
        await follower.stop()
        if given is None:
            await asyncio.to_thread(embedder.close)


async def load_embedder(settings: Settings) -> "Embedder":
    """The embedding model of the settings.

    Raises:
        OpsError: it is not installed or can't be loaded.
    """
    from workers.retrieval.embedder import PACKAGED_MODEL, Embedder
    from workers.retrieval.errors import RetrievalError

    try:
        return await asyncio.to_thread(Embedder.load, settings.embedding_model or PACKAGED_MODEL)
    except RetrievalError as error:
        raise OpsError(str(error)) from error
