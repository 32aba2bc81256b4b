"""Stand-ins for the model and the consumer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from aiokafka import TopicPartition

from schemas.knowledge import DocumentUpserted, encode_document
from workers.retrieval.documents import make_document
from workers.retrieval.embedder import Vectors

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class HashEncoder:
    """Equal texts get equal vectors of length 1, others unrelated ones."""

    def __init__(self, name: str = "hash", dimensions: int = 8) -> None:
        self.name = name
        self.dimensions = dimensions

    def encode(self, texts: list[str]) -> Vectors:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
            row = np.random.default_rng(seed).normal(size=self.dimensions)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, dtype=np.float32)

    async def embed(self, text: str) -> Vectors:
        vector: Vectors = self.encode([text])[0]
        return vector


def document(doc_id: str, text: str = "Some text.", encoder: HashEncoder | None = None) -> DocumentUpserted:
    return make_document(doc_id, text, encoder or HashEncoder(), now=NOW)


def record(doc_id: str, text: str = "Some text.", encoder: HashEncoder | None = None) -> tuple[bytes, bytes]:
    return doc_id.encode(), encode_document(document(doc_id, text, encoder))


@dataclass(frozen=True)
class FakeRecord:
    key: bytes | None
    value: bytes | None
    partition: int
    offset: int


class FakeLog:
    """A topic of one partition, shared by the consumers that read it."""

    def __init__(self, topic: str, records: Sequence[tuple[bytes | None, bytes | None]] = ()) -> None:
        self.topic = topic
        self.records = list(records)
        self.failures: list[Exception] = []
        self.started = 0
        self.stopped = 0


class FakeConsumer:
    """The calls of AIOKafkaConsumer that following needs."""

    def __init__(self, log: FakeLog) -> None:
        self._log = log
        self._position = 0

    async def start(self) -> None:
        self._log.started += 1
        self._fail_if_told()

    async def stop(self) -> None:
        self._log.stopped += 1

    async def topics(self) -> set[str]:
        return {self._log.topic}

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._partition = partitions[0]

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0}

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        self._position = 0

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {partition: len(self._log.records) for partition in partitions}

    async def position(self, partition: TopicPartition) -> int:
        return self._position

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[FakeRecord]]:
        self._fail_if_told()
        if self._position == len(self._log.records):
            await asyncio.sleep(0.001)
            return {}
        key, value = self._log.records[self._position]
        self._position += 1
        return {self._partition: [FakeRecord(key, value, 0, self._position - 1)]}

    def _fail_if_told(self) -> None:
        if self._log.failures:
            raise self._log.failures.pop(0)
