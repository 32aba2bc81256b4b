"""A publisher that seals what has content of a session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from schemas.headers import SEALED_CONTENT, with_content_type
from schemas.publishing import BrokerUnavailable, Position, Publisher, Record
from schemas.sealed import is_sealed
from store.errors import StoreError
from store.seals import Seals


class SealingPublisher:
    """Keeps the promises of `schemas.publishing.Publisher`. Records with the same key leave in the order in which they
    were handed over: that one must be sealed first lets none overtake it."""

    def __init__(self, publisher: Publisher, seals: Seals, *, timeout_seconds: float = 10.0) -> None:
        """`timeout_seconds` bounds the sealing; sending has a time limit of its own."""
        self._publisher = publisher
        self._seals = seals
        self._timeout = timeout_seconds
        self._turns: dict[bytes | None, tuple[asyncio.Lock, int]] = {}
        """Per key who is in turn, and how many are or want to be."""

    async def publish(self, record: Record) -> Position:
        must_seal = record.seal_for is not None and record.value is not None and not is_sealed(record.value)
        if not must_seal and record.key not in self._turns:
            return await self._publisher.publish(record)
        async with self._in_turn(record.key):
            return await self._publisher.publish(await self._sealed(record) if must_seal else record)

    async def _sealed(self, record: Record) -> Record:
        assert record.seal_for is not None
        assert record.value is not None
        try:
            async with asyncio.timeout(self._timeout):
                value = await self._seals.seal(record.seal_for, record.value)
        except (StoreError, TimeoutError) as error:
            raise BrokerUnavailable(
                f"A record for {record.topic} can't be sealed: {str(error) or 'timed out'}"
            ) from error
        if not is_sealed(value):
            return record
        return replace(record, value=value, headers=with_content_type(record.headers, SEALED_CONTENT))

    @asynccontextmanager
    async def _in_turn(self, key: bytes | None) -> AsyncIterator[None]:
        lock, waiting = self._turns.get(key) or (asyncio.Lock(), 0)
        self._turns[key] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._turns[key]
            if waiting == 1:
                del self._turns[key]
            else:
                self._turns[key] = lock, waiting - 1
