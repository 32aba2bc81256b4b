"""Polling that survives a record which the Kafka client itself can't decode.

A header name that is no UTF-8 makes aiokafka's `getmany` raise, for good: the partition would stand still, and what the
same call had drained of other partitions would be lost. So after such an error every partition is rewound to what was
taken last and read on its own; the record that fails is handed on as unreadable and passed by.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError

from workers.records import Partition, UnreadableRecord

log = structlog.get_logger(__name__)

Batches = dict[TopicPartition, list[Any]]

_READ_TIMEOUT_MS = 2_000


class SalvagingPoll:
    """Takes the place of a consumer's `getmany`."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        next_offset: Callable[[Partition], int | None],
        restart_from_committed: Callable[[Partition], Awaitable[None]],
    ) -> None:
        """`next_offset` is what follows the last record taken of a partition; None: nothing was taken yet."""
        self._consumer = consumer
        self._getmany = consumer.getmany
        self._next_offset = next_offset
        self._restart_from_committed = restart_from_committed

    async def getmany(self, *, timeout_ms: int, max_records: int | None) -> Batches:
        try:
            batches: Batches = await self._getmany(timeout_ms=timeout_ms, max_records=max_records)
        except (KafkaError, ConsumerStoppedError):
            raise
        except Exception as error:  # whatever the decoder stumbles over
            log.warning("record_unreadable", error=str(error))
            return await self._salvage()
        return batches

    async def _salvage(self) -> Batches:
        consumer = self._consumer
        for place in consumer.assignment():
            await self._rewind(place)
        behind = await consumer.end_offsets(consumer.assignment() - consumer.paused())
        batches: Batches = {}
        for place, end in behind.items():
            if await consumer.position(place) < end:
                batches[place] = await self._read(place)
        return batches

    async def _rewind(self, place: TopicPartition) -> None:
        offset = self._next_offset(Partition(*place))
        if offset is None:
            await self._restart_from_committed(Partition(*place))
        else:
            self._consumer.seek(place, offset)

    async def _read(self, place: TopicPartition) -> list[Any]:
        """One record after the other, up to and with the first that fails, or what one fetch brings."""
        records: list[Any] = []
        try:
            while batch := (await self._getmany(place, timeout_ms=_READ_TIMEOUT_MS, max_records=1)).get(place):
                records += batch
                if await self._consumer.position(place) >= self._consumer.highwater(place):
                    break
        except (KafkaError, ConsumerStoppedError):
            raise
        except Exception as error:  # found it
            offset = records[-1].offset + 1 if records else await self._consumer.position(place)
            records.append(UnreadableRecord(place.topic, place.partition, offset, str(error)))
            self._consumer.seek(place, offset + 1)
        return records
