"""What a session takes in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from redis.asyncio import Redis

from ops.bench.conversations import Conversation
from ops.bench.store_writes import IN_FLIGHT, commits, fence_of
from ops.bench.stores import opened
from ops.bench.timing import Call, in_flight_s
from store.encryption import Cipher

TURNS = 10


async def bytes_per_session(url: str, cipher: Cipher, sessions: int, progress: Callable[[int], None]) -> float:
    """By how much Redis' `used_memory` grows for each of `sessions` sessions of ten turns, written through the store.
    `progress` is told now and then how many are written.

    Meaningless while anybody else writes to that Redis.
    """
    numbers = iter(range(sessions))
    async with opened(url, cipher) as store, Redis.from_url(url) as redis:
        fence = await fence_of(store)

        def writes() -> Iterator[Call]:
            # All lanes share the numbers, so that all are busy to the end.
            for number in numbers:
                if number % IN_FLIGHT == 0:
                    progress(number)
                yield from commits(store, fence, Conversation(), TURNS)

        before = await used_memory_bytes(redis)
        await in_flight_s([writes() for _ in range(IN_FLIGHT)])
        return (await used_memory_bytes(redis) - before) / sessions


async def used_memory_bytes(redis: Redis) -> int:
    """As Redis' allocator counts them."""
    info = await redis.info("memory")
    return int(info["used_memory"])
