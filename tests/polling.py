"""Waiting for something to become true, with a deadline instead of a sleep."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

T = TypeVar("T")

POLL_INTERVAL_S = 0.05
DEADLINE_S = 30.0


def wait_until(check: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first truthy result of `check`; a server that doesn't answer means "not yet". Blocks.

    Raises:
        AssertionError: names `what` and the last result.
    """
    end = time.monotonic() + deadline_s
    while True:
        try:
            found: object = check()
        except (OSError, httpx.TransportError) as error:
            found, seen = None, repr(error)
        else:
            seen = repr(found)
        if found:
            return found  # type: ignore[return-value]  # the T that `check` returned
        assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s; last seen: {seen}"
        time.sleep(POLL_INTERVAL_S)


async def eventually(check: Callable[[], Awaitable[T]], what: str, deadline_s: float = DEADLINE_S) -> T:
    """`wait_until` for coroutines."""
    end = time.monotonic() + deadline_s
    while True:
        found = await check()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s; last seen: {found!r}"
        await asyncio.sleep(POLL_INTERVAL_S)
