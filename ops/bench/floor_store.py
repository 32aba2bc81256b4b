"""The floor of a commit: one EVALSHA of the least compare-and-set, through redis-py as anybody would use it.

The yardstick of `supportstream bench store`: no fence, no idempotency, no time to live, no history, no encryption.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from types import TracebackType
from typing import Self
from uuid import uuid4

from redis.asyncio import Redis

from ops.bench.measure import BenchError
from ops.bench.timing import Lanes

COMPARE_AND_SET = """
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'turn', ARGV[3])
return 1
"""


class FloorStore:
    """Writes `turn`, the bytes of a turn, into one field of a hash if the hash has the version before.

    A context manager; its pool makes a connection for each call in flight.
    """

    def __init__(self, url: str, turn: bytes) -> None:
        # Without redis-py's timers, which cost a call 35 µs: the floor is as quick as it can be, as in `floor_worker`.
        self._redis = Redis.from_url(url, max_connections=1000, socket_timeout=None)
        self._turn = turn
        self._script_sha = ""
        self._versions: Counter[str] = Counter()
        self._prefix = f"floor-{uuid4().hex[:8]}:"

    async def __aenter__(self) -> Self:
        self._script_sha = await self._redis.script_load(COMPARE_AND_SET)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._redis.aclose()

    async def lanes(self, count: int, calls: int) -> Lanes:
        """`calls` writes to each of `count` keys, ready to be made."""
        return [[partial(self._write, self.key(number))] * calls for number in range(count)]

    def key(self, number: int) -> str:
        """Which hash the writes of a lane go to."""
        return f"{self._prefix}{number}"

    async def _write(self, key: str) -> None:
        version = self._versions[key]
        if await self._redis.evalsha(self._script_sha, 1, key, version, version + 1, self._turn) != 1:
            raise BenchError(f"the floor's write of {key} over version {version} was refused")
        self._versions[key] = version + 1
