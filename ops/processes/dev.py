"""Everything in one process on embedded defaults: broker, in-memory store, model, sample knowledge, worker, ingress."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import structlog

from ops import knowledge, wiring
from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.topics import TopicAdmin
from ops.local.embedded import EmbeddedBroker
from ops.local.process import ServerError
from ops.metrics import Metrics
from ops.processes.ingress import ingress_app
from ops.processes.serving import StopSignal, listen, serve
from ops.processes.worker import load_embedder, running_worker
from ops.settings import Settings
from schemas.publishing import PublishError
from schemas.topics import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from workers.retrieval.embedder import Embedder

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Development:
    """A running development system."""

    url: str
    """Where it serves, like http://127.0.0.1:8000."""
    kafka: str
    """Bootstrap servers, to publish from elsewhere."""


@asynccontextmanager
async def development(settings: Settings, stop: StopSignal, *, broker_port: int | None) -> AsyncIterator[Development]:
    """Serves from ready until the end of the context; `stop` ends it earlier.

    Raises:
        OpsError: a part is missing, or a port is taken.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listen(settings.api_host, settings.api_port))
        connection = await _broker(settings, broker_port, stack, stop)
        # Loading the model takes seconds; the broker has started meanwhile.
        embedder = await load_embedder(settings)
        stack.push_async_callback(asyncio.to_thread, embedder.close)
        await _prepare_topics(settings, connection, embedder)
        store = wiring.session_store(settings)
        stack.push_async_callback(store.close)
        metrics = Metrics()
        seals = await stack.enter_async_context(wiring.session_keys(settings, connection))
        worker = await stack.enter_async_context(
            running_worker(settings, connection, store, seals, metrics, embedder, on_failure=stop.fail)
        )
        app, edge = await stack.enter_async_context(
            ingress_app(settings, connection, store, seals, metrics, {"worker": worker.ready})
        )
        stop.then(edge.close_all)
        server = asyncio.create_task(serve(app, listener, stop), name="server")

        async def finish() -> None:
            stop.set()
            await server

        stack.push_async_callback(finish)
        yield Development(_url(settings.api_host, listener), connection.bootstrap_servers)


async def _broker(settings: Settings, port: int | None, stack: AsyncExitStack, stop: StopSignal) -> KafkaConnection:
    if settings.kafka_bootstrap_servers is not None:
        return wiring.kafka_connection(settings)
    if port is not None:
        # Somebody else's broker on the port would be taken for ours.
        listen("127.0.0.1", port).close()
    directory = stack.enter_context(TemporaryDirectory(prefix="supportstream-"))
    broker = EmbeddedBroker(Path(directory), port=port)
    try:
        await asyncio.to_thread(broker.start)
    except ServerError as error:
        raise OpsError(str(error)) from error
    stack.callback(broker.stop)
    stop.at_once(broker.server.kill)
    connection = wiring.kafka_connection(
        settings.model_copy(update={"kafka_bootstrap_servers": broker.bootstrap_servers})
    )
    # The embedded broker doesn't wake a fetch that waits, so fetches must be short.
    return replace(connection, idempotent_producer=False, fetch_max_wait_ms=10)


async def _prepare_topics(settings: Settings, connection: KafkaConnection, embedder: "Embedder") -> None:
    """Creates the topics that are missing, and fills an empty knowledge base with the samples."""
    from workers.retrieval.documents import read_document

    names = wiring.topic_names(settings)
    embedded = settings.kafka_bootstrap_servers is None
    replication = 1 if embedded else settings.topic_replication_factor
    async with TopicAdmin(connection) as admin:
        await admin.create(wiring.topic_specs_of(settings), replication)
    if await knowledge.list_documents(connection, names.knowledge):
        return
    kafka = wiring.publisher(settings, connection, max_record_bytes=MAX_DOCUMENT_BYTES)
    try:
        for path in knowledge.sample_files():
            document = await asyncio.to_thread(read_document, path, embedder, now=datetime.now(UTC))
            await knowledge.publish_document(kafka, names.knowledge, document)
    except PublishError as error:
        raise OpsError(str(error)) from error
    finally:
        await kafka.close()


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  # compares, doesn't bind
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
