"""The stream of an answer's pieces to the edge: in order, never more than one publish under way, never in the way."""

import asyncio

import structlog

from schemas.deltas import Delta, encode_delta
from schemas.publishing import Publisher, PublishError, Record

log = structlog.get_logger(__name__)


class DeltaStream:
    """Pieces that come while one is being published are joined into the next. Best effort: a piece that can't be
    published is dropped, the reply carries the whole text anyway.
    """

    def __init__(self, publisher: Publisher, topic: str, partition: int, session_id: str, inbound_id: str) -> None:
        self._publisher = publisher
        self._topic = topic
        self._partition = partition
        self._session_id = session_id
        self._inbound_id = inbound_id
        self._pending = ""
        self._count = 0
        self._sending: asyncio.Task[None] | None = None

    async def emit(self, text: str) -> None:
        self._pending += text
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="deltas")

    async def close(self) -> None:
        """Lets what was emitted go out, so that no piece follows the reply."""
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        while self._pending:
            text, self._pending = self._pending, ""
            delta = Delta(session_id=self._session_id, inbound_id=self._inbound_id, n=self._count, text=text)
            self._count += 1
            record = Record(
                self._topic,
                self._session_id.encode(),
                encode_delta(delta),
                self._partition,
                seal_for=self._session_id,
            )
            try:
                await self._publisher.publish(record)
            except PublishError as error:
                log.warning("delta_dropped", session_id=self._session_id, error=str(error))
                return
