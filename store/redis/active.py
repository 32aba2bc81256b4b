"""How many sessions are stored, without a look at all keys each time somebody asks."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import structlog

from store.redis.keys import Keys
from store.redis.scan import session_id_pages

log = structlog.get_logger(__name__)

COUNT_EVERY_SECONDS = 60.0
_PAGE = 1_000


class ActiveSessions:
    """A count that is a minute old at most while somebody asks, made in the background by SCAN."""

    def __init__(self, client: Any, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._known: dict[str, int | float] = {}
        self._counted_at = 0.0
        self._counting: asyncio.Task[None] | None = None

    def count(self) -> dict[str, int | float]:
        """`active_sessions` and `active_sessions_age_seconds`; nothing before the first count is done."""
        now = time.monotonic()
        if self._counting is None and now > self._counted_at + COUNT_EVERY_SECONDS:
            self._counting = asyncio.create_task(self._count(), name="count-sessions")
        if not self._known:
            return {}
        return {**self._known, "active_sessions_age_seconds": round(now - self._counted_at, 1)}

    async def close(self) -> None:
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.wait([self._counting])

    async def _count(self) -> None:
        try:
            found = 0
            async with aclosing(session_id_pages(self._client, self._keys, size=_PAGE)) as pages:
                async for page in pages:
                    found += len(page)
            self._known = {"active_sessions": found}
        except Exception as error:
            log.warning("sessions_not_counted", error=str(error))
        finally:
            self._counted_at = time.monotonic()
            self._counting = None
