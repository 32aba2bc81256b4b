"""A turn's place among those that run at once (WORKER_CONCURRENCY).

The bound is on turns that work: retrieve, generate, compute. A turn that waits for Redis or Kafka costs little, and
while one partition or node is away its turns could fill all places. So a turn that has waited for a while gives its
place away, and takes one again before it generates.
"""

import time
from collections.abc import Awaitable, Callable

IDLE_SECONDS = 0.5
"""How long a turn may wait for a server before its place is given to another."""


class Place:
    """One turn's place. `regain` returns when the turn has one again."""

    __slots__ = ("_regain", "idle_since", "parked")

    def __init__(self, regain: Callable[["Place"], Awaitable[None]]) -> None:
        self._regain = regain
        self.parked = False
        """Another turn has the place; set by the dispatcher."""
        self.idle_since: float | None = time.monotonic()
        """Since when the turn does nothing but wait, by the monotonic clock; None while it works."""

    async def work(self) -> None:
        """The turn begins to retrieve or generate; returns when it has a place for that."""
        self.idle_since = None
        if self.parked:
            await self._regain(self)

    def wait(self) -> None:
        """The turn only waits from now on."""
        self.idle_since = time.monotonic()


async def _has_one(place: Place) -> None:
    return None


def own_place() -> Place:
    """A place that is never given away, for a turn outside of a dispatcher."""
    return Place(_has_one)
