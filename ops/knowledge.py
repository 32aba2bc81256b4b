"""Knowledge from the command line: documents onto the knowledge topic and off it, and a look at what is there."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.publisher import KafkaPublisher
from schemas.headers import cloud_event_headers
from schemas.knowledge import DocumentUpserted, decode_document, encode_document
from schemas.publishing import Record

Apply = Callable[[bytes | None, bytes | None], object]
SAMPLE_KNOWLEDGE = Path(__file__).parent / "sample_knowledge"


async def publish_document(kafka: KafkaPublisher, topic: str, document: DocumentUpserted) -> None:
    """Adds the document, or replaces the one with its id. Raises PublishError."""
    headers = cloud_event_headers(
        f"{document.doc_id}@{document.revision}",
        "supportstream.document.upserted.v1",
        "/ops/knowledge",
        document.updated_at,
    )
    await kafka.publish(Record(topic, document.doc_id.encode(), encode_document(document), 0, headers))


async def remove_document(kafka: KafkaPublisher, topic: str, doc_id: str) -> None:
    """Publishes the tombstone that takes the document out of every index. Raises PublishError."""
    await kafka.publish(Record(topic, doc_id.encode(), None, 0))


async def read_knowledge(connection: KafkaConnection, topic: str, apply: Apply) -> None:
    """Hands key and value of every record that the topic holds now to `apply`, in order.

    Raises:
        OpsError: no broker answers, or there is no such topic.
    """
    async with _consumer(connection) as consumer:
        place = TopicPartition(topic, 0)
        try:
            if topic not in await consumer.topics():
                raise OpsError(f"Topic {topic} is not there: supportstream topics create")
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(timeout_ms=1_000)).values():
                    for record in records:
                        apply(record.key, record.value)
        except KafkaError as error:
            raise OpsError(f"The knowledge topic can't be read: {error}") from error


async def list_documents(connection: KafkaConnection, topic: str) -> list[DocumentUpserted]:
    """The documents in the topic, by id, whichever model embedded them. Raises as `read_knowledge`."""
    documents: dict[bytes, DocumentUpserted] = {}

    def apply(key: bytes | None, value: bytes | None) -> None:
        documents.pop(key or b"", None)
        if value is not None:
            # What is no document is in no index either; workers report it.
            with suppress(ValidationError):
                documents[key or b""] = decode_document(value)

    await read_knowledge(connection, topic, apply)
    return [documents[key] for key in sorted(documents)]


def sample_files() -> Iterable[Path]:
    """The ten documents that `dev` begins with."""
    return sorted(SAMPLE_KNOWLEDGE.glob("*.md"))


@asynccontextmanager
async def _consumer(connection: KafkaConnection) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = connection.span_reader(max_partition_fetch_bytes=16 * 1024 * 1024)
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise OpsError(f"No Kafka broker answers at {connection.bootstrap_servers}: {error}") from error
    finally:
        await consumer.stop()
