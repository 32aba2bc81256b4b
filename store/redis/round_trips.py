"""Grouped round trips: commands of many sessions go to Redis together.

A command is sent at once when nothing is under way; what is asked meanwhile leaves together when the responses are in.
So one caller alone waits for nothing, and many share the cost of a round trip.
"""

import asyncio
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
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
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from store.errors import StoreError, StoreUnavailable
from store.redis.scripts import ALL_SCRIPTS, Script

_PASSING = (ReadOnlyError, OutOfMemoryError, MasterDownError, ClusterDownError, TryAgainError)
_PASSING_CODES = ("READONLY", "OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY")
"""Refusals that are the server's state, not the command's fault: a failover, full memory, a disk that failed. From a
script they come under their code, otherwise as redis-py's classes."""


class RoundTrips:
    """Runs commands over one connection of its own, one group at a time; at most `max_group` commands in each.

    The connection is made as `pool` makes its own, but without a timer for each write and each response (17 of 27 µs a
    command, measured): one limit of `time_limit` seconds bounds the whole group. A group whose connection fails is sent
    again, `retries` times; every write of ours may run twice.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        time_limit: float,
        retries: int = 2,
        retry_on_timeout: bool = True,
        max_group: int = 256,
    ) -> None:
        self._pool = pool
        self._time_limit = time_limit
        self._max_group = max_group
        failures = (RedisConnectionError, *((RedisTimeoutError,) if retry_on_timeout else ()))
        self._retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries, failures)
        self._connection: AbstractConnection | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, *command: Any) -> asyncio.Future[Any]:
        """The command's response. Its arguments are text, bytes or numbers, its name a single word.

        Raises, when awaited:
            StoreUnavailable: no response came; the command may have run.
            StoreError: Redis refused the command.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((_packed(command), future))
        if self._sender is None:
            self._sender = loop.create_task(self._send_all(), name="redis-round-trips")
        return future

    def run_script(self, script: Script, keys: list[str], args: list[Any]) -> asyncio.Future[Any]:
        return self.run("EVALSHA", script.sha, len(keys), *keys, *args)

    async def close(self) -> None:
        if self._sender is not None:
            await self._sender
        await self._disconnect()

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._max_group], self._waiting[self._max_group :]
                await self._send(group)
        finally:
            self._sender = None

    async def _send(self, group: list[tuple[bytes, asyncio.Future[Any]]]) -> None:
        try:
            responses = await self._exchange([command for command, _ in group])
            if any(isinstance(response, NoScriptError) for response in responses):
                # Redis restarted or was told SCRIPT FLUSH; none of the refused scripts ran.
                again = [i for i, response in enumerate(responses) if isinstance(response, NoScriptError)]
                loads = [_packed(("SCRIPT", "LOAD", script.text)) for script in ALL_SCRIPTS]
                loaded = await self._exchange([*loads, *(group[i][0] for i in again)])
                for i, response in zip(again, loaded[len(loads) :], strict=True):
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

    async def _exchange(self, commands: list[bytes]) -> list[Any]:
        """The responses to packed `commands`, refusals among them as exceptions."""
        packed = b"".join(commands)
        responses: list[Any] = await self._retry.call_with_retry(
            lambda: self._exchange_once(packed, len(commands)), lambda error: self._disconnect()
        )
        return responses

    async def _exchange_once(self, packed: bytes, count: int) -> list[Any]:
        if self._connection is None:
            self._connection = self._new_connection()
        connection = self._connection
        responses: list[Any] = []
        try:
            async with asyncio.timeout(self._time_limit):
                await connection.send_packed_command(packed)
                for _ in range(count):
                    try:
                        responses.append(await connection.read_response())
                    except ResponseError as refusal:
                        responses.append(refusal)
        except TimeoutError as error:
            raise RedisTimeoutError(f"no response in {self._time_limit:g} s") from error
        return responses

    def _new_connection(self) -> AbstractConnection:
        settings = {
            **self._pool.connection_kwargs,
            "socket_timeout": None,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
        }
        return self._pool.connection_class(**settings)

    async def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)


def _packed(command: tuple[Any, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _store_error(error: Exception) -> StoreError:
    passing = isinstance(error, _PASSING) or str(error).startswith(_PASSING_CODES)
    if isinstance(error, ResponseError) and not passing:
        return StoreError(f"Redis refused a command: {error}")
    return StoreUnavailable(f"Redis does not answer: {error or type(error).__name__}")
