"""A worker's background task: the index of session keys follows its topic, and the topic forgets what was destroyed."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

from ops.background import in_background
from schemas.publishing import PublishError
from schemas.topics import HOUR_MS
from store.errors import StoreError
from store.seals import Seals

log = structlog.get_logger(__name__)

_EVERY_SECONDS = HOUR_MS / 1000
"""As long as a segment of the topic lasts: the next record closes it, and then it can be compacted."""


def keys_kept_up(
    seals: Seals, is_ours: Callable[[], bool], *, every_seconds: float = _EVERY_SECONDS
) -> AbstractAsyncContextManager[None]:
    """Keeps up while the block runs; `is_ours` says whether it is this process that beats."""
    return in_background(_keep_up(seals, is_ours, every_seconds), "key-upkeep")


async def _keep_up(seals: Seals, is_ours: Callable[[], bool], every_seconds: float) -> None:
    while True:
        try:
            await seals.keep_up(beat=is_ours())
        except (StoreError, PublishError) as error:
            log.warning("session_keys_not_kept_up", error=str(error))
        await asyncio.sleep(every_seconds)
