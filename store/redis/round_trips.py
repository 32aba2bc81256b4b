"""Grouped round trips: commands of many sessions go to Redis together.

A command is sent at once when nothing is under way; what is asked meanwhile leaves as one pipeline when the response
is in. So one caller alone waits for nothing, and many share the cost of a round trip (about 20 µs of CPU each
instead of 100).
"""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from store.errors import StoreError, StoreUnavailable
from store.redis.scripts import ALL_SCRIPTS, Script

Command = tuple[Any, ...]

_PASSING = (ReadOnlyError, OutOfMemoryError, MasterDownError, ClusterDownError, TryAgainError)
_PASSING_CODES = ("READONLY", "OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY")
"""Refusals that are the server's state, not the command's fault: a failover, full memory, a disk that failed. From a
script they come under their code, otherwise as redis-py's classes."""


class RoundTrips:
    """Runs commands through one pipeline at a time; at most `max_group` commands in each."""

    def __init__(self, client: Redis, *, max_group: int = 256) -> None:
        self._client = client
        self._max_group = max_group
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    def run(self, *command: Any) -> asyncio.Future[Any]:
        """The command's response.

        Raises, when awaited:
            StoreUnavailable: no response came; the command may have run.
            StoreError: Redis refused the command.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="redis-round-trips")
        return future

    def run_script(self, script: Script, keys: list[str], args: list[Any]) -> asyncio.Future[Any]:
        return self.run("EVALSHA", script.sha, len(keys), *keys, *args)

    async def load_scripts(self) -> None:
        for script in ALL_SCRIPTS:
            await self._client.script_load(script.text)

    async def close(self) -> None:
        if self._sender is not None:
            await self._sender

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._max_group], self._waiting[self._max_group :]
                await self._send(group)
        finally:
            self._sender = None

    async def _send(self, group: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            responses = await self._execute([command for command, _ in group])
            if any(isinstance(response, NoScriptError) for response in responses):
                # Redis restarted or was told SCRIPT FLUSH; none of the refused scripts ran.
                await self.load_scripts()
                again = [i for i, response in enumerate(responses) if isinstance(response, NoScriptError)]
                for i, response in zip(again, await self._execute([group[i][0] for i in again]), strict=True):
                    responses[i] = response
        except (RedisError, OSError, TimeoutError) as error:
            responses = [error] * len(group)
        except BaseException:
            for _, future in group:
                future.cancel()
            raise
        for (_, future), response in zip(group, responses, strict=True):
            if future.done():
                continue
            if isinstance(response, Exception):
                future.set_exception(_store_error(response))
            else:
                future.set_result(response)

    async def _execute(self, commands: list[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        responses: list[Any] = await pipeline.execute(raise_on_error=False)
        return responses


def _store_error(error: Exception) -> StoreError:
    passing = isinstance(error, _PASSING) or str(error).startswith(_PASSING_CODES)
    if isinstance(error, ResponseError) and not passing:
        return StoreError(f"Redis refused a command: {error}")
    return StoreUnavailable(f"Redis does not answer: {error or type(error).__name__}")
