"""What `ops.kafka.screened_consumer` uses of aiokafka beyond its public interface, and does with it."""

from importlib.metadata import version
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from ops.kafka.screened_consumer import ScreenedConsumer
from workers.errors import ClientBroken

P0 = TopicPartition("inbound", 0)


class InnerClient:
    """The network client below a consumer."""

    def __init__(self, records: bytes = b"", error: Exception | None = None) -> None:
        self.records = records
        self.error = error
        self.cluster = "what else the consumer asks of its client"

    async def send(self, node_id: int, request: Any) -> Any:
        if self.error is not None:
            raise self.error
        return Response([("inbound", [(0, 0, 7, 7, 0, None, -1, self.records)])])


class Response:
    API_VERSION = 11

    def __init__(self, topics: list[Any]) -> None:
        self.topics = topics


def consumer_over(inner: InnerClient) -> ScreenedConsumer:
    consumer = ScreenedConsumer(bootstrap_servers="localhost:1")
    consumer._client._inner = inner
    return consumer


def fetch() -> Any:
    return FetchRequest(500, 1, 1_000_000, 1, [("inbound", [(0, 5, 1_000_000)])], rack_id="")


def batch_of(value: bytes) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=0,
    )
    builder.append(0, 1_700_000_000_000, None, value, [])
    return bytes(builder.build())


def test_the_hooks_belong_to_this_minor_version_of_aiokafka() -> None:
    assert version("aiokafka").startswith("0.14.")


async def test_it_reads_committed_transactions_and_leaves_checksums_to_the_screen() -> None:
    consumer = ScreenedConsumer(bootstrap_servers="localhost:1", isolation_level="read_uncommitted", check_crcs=True)
    assert (consumer._isolation_level, consumer._check_crcs) == ("read_committed", False)


async def test_what_is_fetched_passes_the_screen() -> None:
    """L: a batch with a wrong checksum is replaced before the client decodes it."""
    broken = bytearray(batch_of(b"Hello"))
    broken[-3] ^= 1
    consumer = consumer_over(InnerClient(bytes(broken)))
    response = await consumer._client.send(1, fetch())
    assert response.topics[0][1][0][-1] != bytes(broken)
    assert [type(note).__name__ for note in consumer._screen.notes.values()] == ["BrokenBatch"]


async def test_what_is_whole_passes_unchanged() -> None:
    whole = batch_of(b"Hello")
    consumer = consumer_over(InnerClient(whole))
    response = await consumer._client.send(1, fetch())
    assert response.topics[0][1][0][-1] == whole
    assert consumer._client.cluster == "what else the consumer asks of its client"


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), TypeError("of a future version")])
async def test_a_request_that_fails_with_an_unknown_exception_is_a_broken_connection(error: Exception) -> None:
    """The client's own tasks handle KafkaError only; another type would end them for good."""
    consumer = consumer_over(InnerClient(error=error))
    with pytest.raises(KafkaConnectionError, match=str(error)):
        await consumer._client.send(1, fetch())


class EndedFetcher:
    """A fetcher whose task has ended."""

    class error_future:  # noqa: N801  # aiokafka's name
        @staticmethod
        def done() -> bool:
            return True


async def test_a_consumer_whose_fetch_task_ended_says_so() -> None:
    """H: it would never deliver again, and a poll would wait for ever."""
    consumer = ScreenedConsumer(bootstrap_servers="localhost:1")
    consumer._fetcher = EndedFetcher()
    with pytest.raises(ClientBroken):
        await consumer.getmany(timeout_ms=1)


async def test_where_a_partition_was_sought_is_where_a_failed_poll_begins_again() -> None:
    """L"""
    consumer = ScreenedConsumer(bootstrap_servers="localhost:1")
    consumer.assign([P0])
    sought: list[int] = []

    class Fetcher:
        error_future = type("Running", (), {"done": staticmethod(lambda: False)})

        def seek_to(self, place: TopicPartition, offset: int) -> None:
            sought.append(offset)

        async def fetched_records(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("of a kind that nobody thought of")

    consumer._fetcher = Fetcher()
    consumer._coordinator = type("Coordinator", (), {"check_errors": staticmethod(lambda: None)})
    consumer.seek(P0, 41)
    with pytest.raises(RuntimeError):
        await consumer.getmany(timeout_ms=1)
    assert sought == [41, 41]
