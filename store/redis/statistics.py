"""What Redis tells of itself: figures for `/` and `/health`, and whether it may drop sessions that live."""

from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from schemas.frozen import frozen
from store.errors import StoreUnavailable
from store.protocol import StoreStats

_SHOWN = (
    "redis_version",
    "connected_clients",
    "used_memory_human",
    "total_commands_processed",
    "maxmemory",
    "maxmemory_policy",
    "evicted_keys",
)
KEEPS_EVERYTHING = "noeviction"
"""The one `maxmemory-policy` under which full memory refuses writes instead of removing keys."""


@frozen()
class Eviction:
    """How the masters treat full memory, and how many keys they have removed for it."""

    policies: tuple[str, ...] = ()
    """The masters' different `maxmemory-policy`, sorted; none where it is not told."""
    evicted_keys: int = 0
    """Summed over the masters, since each of them started."""
    not_told: str = ""
    """Why Redis does not say, for example because its user may not run INFO; empty where it does."""

    @property
    def dropping(self) -> tuple[str, ...]:
        """Policies under which Redis removes keys that still live."""
        return tuple(policy for policy in self.policies if policy != KEEPS_EVERYTHING)


async def server_statistics(client: Any) -> StoreStats:
    """Never raises: a store that is away says so. Of a cluster, numbers are summed over the masters."""
    try:
        infos = await _infos(client)
    except ResponseError as refusal:
        # The server answers, but not to this user, or not to this command.
        return StoreStats("redis", True, {"info_refused": str(refusal)})
    except Exception as error:
        # After a reset uvloop raises RuntimeError, which redis-py passes on.
        return StoreStats("redis", False, {"error": str(error) or type(error).__name__})
    details: dict[str, str | int | float | bool] = {}
    for name in _SHOWN:
        values = [info[name] for info in infos if name in info]
        if values and isinstance(values[0], int):
            details[name] = sum(values)
        elif values:
            details[name] = ", ".join(dict.fromkeys(str(value) for value in values))
    if len(infos) > 1:
        details["nodes"] = len(infos)
    return StoreStats("redis", True, details)


async def eviction(client: Any) -> Eviction:
    """Raises StoreUnavailable: Redis does not answer."""
    try:
        infos = await _infos(client)
    except ResponseError as refusal:
        return Eviction(not_told=f"Redis refuses INFO: {refusal}")
    except Exception as error:
        raise StoreUnavailable(f"Redis does not answer: {error or type(error).__name__}") from error
    policies = {str(info["maxmemory_policy"]) for info in infos if "maxmemory_policy" in info}
    evicted = sum(int(info.get("evicted_keys", 0)) for info in infos)
    return Eviction(tuple(sorted(policies)), evicted, "" if policies else "INFO has no maxmemory_policy")


async def _infos(client: Any) -> list[dict[str, Any]]:
    """What INFO says of each master."""
    if not isinstance(client, RedisCluster):
        return [await client.info()]
    answer: dict[str, Any] = await client.info(target_nodes=RedisCluster.PRIMARIES)
    # One node alone answers without its name.
    return [answer] if "redis_version" in answer else list(answer.values())
