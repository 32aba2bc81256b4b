"""A poll that raises has taken nothing, also of partitions that were not sought to an offset."""

from collections.abc import Callable

import pytest
from aiokafka import TopicPartition

from ops.kafka.screened_consumer import ScreenedConsumer
from ops.local.kafka import KafkaServer
from tests.integration.test_all_or_nothing_polls import Unheard, publish, topic

__all__ = ["topic"]  # a fixture


async def reader(kafka: KafkaServer, topic: str, decoded: Callable[[bytes], bytes], *numbers: int) -> ScreenedConsumer:
    made = ScreenedConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        enable_auto_commit=False,
        value_deserializer=decoded,
    )
    await made.start()
    made.assign([TopicPartition(topic, number) for number in numbers])
    return made


async def read(made: ScreenedConsumer, count: int, timeout_ms: int = 300, polls: int = 10) -> list[bytes]:
    values: list[bytes] = []
    for _ in range(polls):
        for records in (await made.getmany(timeout_ms=timeout_ms)).values():
            values += [record.value for record in records]
        if len(values) >= count:
            break
    return values


async def test_a_first_poll_that_raises_has_taken_nothing(kafka: KafkaServer, topic: str) -> None:
    """L: of partitions that were not sought, and whose position was not known when the poll began."""
    await publish(kafka, topic, 3)
    seen = 0

    def decoded(value: bytes) -> bytes:
        nonlocal seen
        seen += 1
        if seen == 4:  # the first partition is drained
            raise Unheard
        return value

    made = await reader(kafka, topic, decoded, 0, 1, 2)
    try:
        with pytest.raises(Unheard):
            await made.getmany(timeout_ms=20_000)
        assert sorted(await read(made, 9)) == sorted(b"%d of %d" % (n, p) for n in range(3) for p in range(3))
    finally:
        await made.stop()


async def test_a_poll_that_raises_after_seek_to_beginning_has_taken_nothing(kafka: KafkaServer, topic: str) -> None:
    """L: `workers/retrieval/follow.py` seeks so."""
    await publish(kafka, topic, 5)
    poisoned = False

    def decoded(value: bytes) -> bytes:
        if poisoned and value == b"3 of 1":
            raise Unheard
        return value

    made = await reader(kafka, topic, decoded, 1)
    try:
        await read(made, 5)
        poisoned = True
        await made.seek_to_beginning(TopicPartition(topic, 1))
        with pytest.raises(Unheard):
            await made.getmany(timeout_ms=20_000)
        poisoned = False
        assert await read(made, 5) == [b"%d of 1" % n for n in range(5)]
    finally:
        await made.stop()
