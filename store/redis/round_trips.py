"""Grouped round trips: commands of many sessions go to Redis together.

A command is sent at once when nothing is under way; what is asked meanwhile leaves together when the responses are in.
So one caller alone waits for nothing, and many share the cost of a round trip.
"""

import asyncio
from typing import Any, Protocol

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from store.errors import StoreError, StoreUnavailable
from store.redis.scripts import ALL_SCRIPTS, Script

_PASSING = (ReadOnlyError, OutOfMemoryError, MasterDownError, ClusterDownError, TryAgainError)
_PASSING_CODES = (
    "READONLY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "LOADING",
)
"""Refusals that are the server's state, not the command's fault: a failover, full memory, a disk that failed. From a
script they come under their code, otherwise as redis-py's classes."""

Command = tuple[Any, ...]


class Link(Protocol):
    """The way to one Redis, in whichever form it runs."""

    async def exchange(self, commands: list[Command]) -> list[Any]:
        """The responses, refusals among them as exceptions. A link that fails is made anew and everything sent again:
        a command may run twice.

        Raises:
            RedisError, RedisClusterException, OSError: no responses came.
            StoreReplaced: another server answers than before (`accept_server`).
        """
        ...

    async def load_scripts(self, texts: list[str]) -> None:
        """Makes EVALSHA know the scripts, on every server. Raises as `exchange`."""
        ...

    def accept_server(self) -> None:
        """Lets commands pass to the server that answers now."""
        ...

    async def close(self) -> None: ...


class RoundTrips:
    """Runs commands over a link, one group at a time; at most `max_group` commands in each.

    Whoever finds nothing under way sends its own command; what is asked meanwhile is sent by a task, in groups.
    """

    def __init__(self, link: Link, *, max_group: int = 256) -> None:
        self._link = link
        self._max_group = max_group
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._busy = False
        self._sender: asyncio.Task[None] | None = None

    async def run(self, *command: Any) -> Any:
        """The command's response. Its arguments are text, bytes or numbers, its name a single word.

        Raises:
            StoreReplaced: another server answers than before; the command did not run there.
            StoreUnavailable: no response came; the command may have run.
            StoreError: Redis refused the command.
        """
        if self._busy:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._waiting.append((command, future))
            return await future
        self._busy = True
        try:
            [response] = await self._exchange([command])
        finally:
            self._busy = False
            self._send_what_waits()
        if isinstance(response, Exception):
            raise _store_error(response)
        return response

    async def run_script(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        """As `run`."""
        return await self.run("EVALSHA", script.sha, len(keys), *keys, *args)

    def accept_server(self) -> None:
        """After StoreReplaced: goes on with the server that answers now."""
        self._link.accept_server()

    async def close(self) -> None:
        if self._sender is not None:
            await self._sender
        await self._link.close()

    def _send_what_waits(self) -> None:
        if self._waiting:
            self._busy = True
            self._sender = asyncio.get_running_loop().create_task(self._send_all(), name="redis-round-trips")

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._max_group], self._waiting[self._max_group :]
                await self._send(group)
        finally:
            self._busy = False
            self._sender = None

    async def _send(self, group: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            responses = await self._exchange([command for command, _ in group])
        except StoreError as error:
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

    async def _exchange(self, commands: list[Command]) -> list[Any]:
        try:
            responses = await self._link.exchange(commands)
            again = [i for i, response in enumerate(responses) if isinstance(response, NoScriptError)]
            if again:
                # Redis restarted or was told SCRIPT FLUSH; none of the refused scripts ran.
                await self._link.load_scripts([script.text for script in ALL_SCRIPTS])
                for i, response in zip(again, await self._link.exchange([commands[i] for i in again]), strict=True):
                    responses[i] = response
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            raise _store_error(error) from error
        return responses


def _store_error(error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    passing = isinstance(error, _PASSING) or str(error).startswith(_PASSING_CODES)
    if isinstance(error, ResponseError) and not passing:
        return StoreError(f"Redis refused a command: {error}")
    return StoreUnavailable(f"Redis does not answer: {error or type(error).__name__}")
