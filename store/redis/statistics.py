"""What Redis tells of itself, as `/` and `/health` show it."""

from typing import Any

from store.protocol import StoreStats

_SHOWN = ("redis_version", "connected_clients", "used_memory_human", "total_commands_processed")


async def server_statistics(client: Any) -> StoreStats:
    """Never raises: a store that is away says so. Of a cluster, numbers are summed over the masters."""
    try:
        answer: dict[str, Any] = await client.info()
    except Exception as error:
        # After a reset uvloop raises RuntimeError, which redis-py passes on.
        return StoreStats("redis", False, {"error": str(error) or type(error).__name__})
    infos: list[dict[str, Any]] = [answer] if "redis_version" in answer else list(answer.values())
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
