"""Redis must not evict: a conversation that it drops to free memory is lost to the workers until it is put back.

At the start of a process the policy is checked; while it runs, keys that were evicted are counted and told of.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

import structlog

from ops.background import in_background
from ops.errors import OpsError
from ops.settings import Settings
from store.errors import StoreUnavailable
from store.protocol import SessionStore
from store.redis import RedisSessionStore
from store.redis.statistics import Eviction

log = structlog.get_logger(__name__)

SAMPLE_SECONDS = 10.0
HINT = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"


def eviction_problem(told: Eviction) -> str | None:
    """What is wrong with the policy, as a sentence; None: nothing is, or it is not told."""
    if not told.dropping:
        return None
    policies = ", ".join(told.dropping)
    return f"Redis has maxmemory-policy {policies}: when its memory is full it removes conversations; {HINT}"


async def check_eviction(settings: Settings, store: SessionStore) -> str | None:
    """What is to be warned of; None: Redis drops nothing, or there is no Redis.

    Raises:
        OpsError: Redis drops conversations when its memory is full, and this is production.
        StoreUnavailable: Redis does not answer.
    """
    if not isinstance(store, RedisSessionStore):
        return None
    told = await store.eviction()
    if told.not_told:
        return f"whether Redis drops conversations can't be checked ({told.not_told}); it must have noeviction"
    problem = eviction_problem(told)
    if problem is not None and settings.environment == "production":
        raise OpsError(problem)
    return problem


async def refuse_eviction(settings: Settings, store: SessionStore) -> None:
    """`check_eviction` at the start of a process: a warning goes to the log. Raises as it does."""
    if warning := await check_eviction(settings, store):
        log.warning("redis_may_evict", problem=warning)


class EvictionCount:
    """Notices that the number of evicted keys rises. No I/O."""

    def __init__(self) -> None:
        self._known: int | None = None
        self._rising = False

    def rise(self, evicted_keys: int) -> int:
        """How many more keys than before were evicted, once at the beginning of each rise; 0 otherwise.

        The first count says nothing, for it may be old. A smaller one is that of another server, or of one that was
        started again.
        """
        more = 0 if self._known is None else max(0, evicted_keys - self._known)
        self._known = evicted_keys
        begins, self._rising = more > 0 and not self._rising, more > 0
        return more if begins else 0


def evictions_counted(
    store: SessionStore, show: Callable[[int], None], *, every_seconds: float = SAMPLE_SECONDS
) -> AbstractAsyncContextManager[None]:
    """While the block runs, hands the number of evicted keys to `show` and logs each rise."""
    if not isinstance(store, RedisSessionStore):
        return nullcontext()
    return in_background(_count(store, show, every_seconds), "count-evictions")


async def _count(store: RedisSessionStore, show: Callable[[int], None], every_seconds: float) -> None:
    count, dropping = EvictionCount(), None
    while True:
        try:
            told = await store.eviction()
            if not told.not_told:
                show(told.evicted_keys)
                if dropping is not None and told.dropping != dropping and told.dropping:
                    # Changed since the start, or another server is the master now.
                    log.warning("redis_may_evict", problem=eviction_problem(told))
                dropping = told.dropping
                if more := count.rise(told.evicted_keys):
                    log.warning(
                        "redis_evicts", keys=more, evicted_keys=told.evicted_keys, policies=told.policies, hint=HINT
                    )
        except StoreUnavailable:
            pass  # Redis is away: health and the turns that wait say so
        except Exception:
            log.exception("evictions_not_counted")
        await asyncio.sleep(every_seconds)
