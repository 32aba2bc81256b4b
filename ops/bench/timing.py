"""How long calls take: one at a time, or many in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

Call = Callable[[], Awaitable[object]]
Lanes = Sequence[Iterable[Call]]
"""Calls that are ready, unless a lane is an iterator. Those of one lane follow one another, as a session's turns do."""


async def one_at_a_time_s(lanes: Lanes) -> list[float]:
    """How long each call takes while nothing else is under way, in seconds."""
    seconds: list[float] = []
    for calls in lanes:
        for call in calls:
            begun = time.perf_counter()
            await call()
            seconds.append(time.perf_counter() - begun)
    return seconds


async def in_flight_s(lanes: Lanes) -> float:
    """How long it takes to make all calls with one of every lane in flight, in seconds."""
    begun = time.perf_counter()
    await asyncio.gather(*(_make(calls) for calls in lanes))
    return time.perf_counter() - begun


async def _make(calls: Iterable[Call]) -> None:
    for call in calls:
        await call()
