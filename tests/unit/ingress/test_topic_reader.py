"""The reader of a topic whose records must be opened first."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from ingress.topic_reader import KeyAndValue, TopicReader
from store.errors import StoreUnavailable


class Consumer:
    """Has one batch, and then nothing more."""

    def __init__(self, *records: KeyAndValue) -> None:
        self._batches = [{TopicPartition("t", 0): [SimpleNamespace(key=key, value=value) for key, value in records]}]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def assign(self, places: Sequence[TopicPartition]) -> None: ...

    def seek(self, place: TopicPartition, offset: int) -> None: ...

    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def getmany(self, **arguments: Any) -> dict[TopicPartition, list[Any]]:
        if not self._batches:
            await asyncio.Event().wait()
        return self._batches.pop()


async def test_what_cannot_be_opened_yet_waits_and_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None: ...

    monkeypatch.setattr("ingress.topic_reader.asyncio.sleep", at_once)
    consumer = Consumer((b"a", b"\x01sealed 1"), (b"b", b"plain"), (None, None))
    monkeypatch.setattr("ingress.topic_reader.AIOKafkaConsumer.end_offsets", Consumer.end_offsets)
    delivered: list[KeyAndValue] = []
    done = asyncio.Event()
    failures = 2

    async def opened(records: Sequence[KeyAndValue]) -> list[bytes | None]:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("Redis is away")
        return [value and value.removeprefix(b"\x01sealed ") for _, value in records]

    def deliver(key: bytes | None, value: bytes | None) -> None:
        delivered.append((key, value))
        if len(delivered) == 3:
            done.set()

    reader = TopicReader(lambda: consumer, "t", opened, deliver)
    await reader.start(1)
    async with asyncio.timeout(5):
        await done.wait()
    assert delivered == [(b"a", b"1"), (b"b", b"plain"), (None, None)]
    assert reader.running
    await reader.stop()
