"""Which sessions are stored, found by SCAN: it holds nobody up, and needs no list of them."""

from collections.abc import AsyncGenerator
from typing import Any

from store.errors import StoreUnavailable
from store.redis.keys import Keys

_SCAN_BATCH = 1_000
"""Keys that Redis looks at in one step; most are no sessions, but their lists."""


async def session_id_pages(client: Any, keys: Keys, *, size: int) -> AsyncGenerator[list[str]]:
    """The ids of all sessions, tombstones included, in no order, at most `size` at once.

    A session that is there all the time comes at least once; one that comes or goes meanwhile may be missing. A
    failover or a cluster's moving slots in the middle can hide some.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    page: dict[str, None] = {}
    try:
        async for key in client.scan_iter(match=keys.pattern, count=_SCAN_BATCH, _type="hash"):
            page[keys.session_id(key)] = None
            if len(page) == size:
                yield list(page)
                page.clear()
    except Exception as error:
        raise StoreUnavailable(f"Redis does not answer: {error or type(error).__name__}") from error
    if page:
        yield list(page)
