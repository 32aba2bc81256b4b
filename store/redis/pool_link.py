"""The link to a standalone Redis, or to the master that sentinels name: one connection, held as long as it works."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from store.errors import StoreReplaced, StoreUnavailable
from store.redis.round_trips import Command
from store.redis.server_watch import ServerWatch

log = structlog.get_logger(__name__)

MASTER_CHECK_SECONDS = 1.0

MasterAddress = Callable[[], Awaitable[tuple[str, int]]]


class PoolLink:
    """Keeps the promises of `store.redis.round_trips.Link`.

    The connection is made as `pool` makes its own, but without a timer for each write and each response (17 of 27 µs a
    command, measured): one limit of `time_limit` seconds bounds a whole group. A group whose connection fails is sent
    again, `retries` times. `watch` is shared by all links to the same Redis.

    `master` (with sentinels) is asked once a second: a master that was replaced in good order goes on accepting writes
    for ten seconds, and they are lost. `wait_replicas` of the replicas must have a group's writes before they count.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        time_limit: float,
        watch: ServerWatch,
        retries: int = 2,
        retry_on_timeout: bool = True,
        wait_replicas: int = 0,
        master: MasterAddress | None = None,
    ) -> None:
        self._pool = pool
        self._time_limit = time_limit
        self._watch = watch
        failures = (RedisConnectionError, *((RedisTimeoutError,) if retry_on_timeout else ()))
        self._retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries, failures)
        self._wait_replicas = wait_replicas
        self._master = master
        self._master_checked_at = 0.0
        self._connection: AbstractConnection | None = None
        self._server: bytes | None = None

    async def exchange(self, commands: list[Command]) -> list[Any]:
        waits = self._wait_replicas > 0 and any(command[0] == "EVALSHA" for command in commands)
        if waits:
            # Half of the limit: the answer that replicas are late must come before the link gives up.
            commands = [*commands, ("WAIT", self._wait_replicas, int(self._time_limit * 500))]
        packed = b"".join([_packed(command) for command in commands])
        responses: list[Any] = await self._retry.call_with_retry(
            lambda: self._exchange_once(packed, len(commands)), lambda error: self.close()
        )
        return self._confirmed(commands[:-1], responses) if waits else responses

    async def load_scripts(self, texts: list[str]) -> None:
        await self.exchange([("SCRIPT", "LOAD", text) for text in texts])

    def accept_server(self) -> None:
        self._watch.accept()

    @property
    def server(self) -> str:
        return self._watch.newest

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                await connection.disconnect(nowait=True)
            except Exception as error:
                # It was broken already; that is why it is closed.
                log.debug("redis_connection_not_closed", error=f"{type(error).__name__}: {error}")

    async def _exchange_once(self, packed: bytes, count: int) -> list[Any]:
        try:
            async with asyncio.timeout(self._time_limit):
                connection = await self._connected()
                self._watch.check()
                return await _responses(connection, packed, count)
        except (StoreReplaced, RedisTimeoutError, RedisConnectionError):
            raise
        except TimeoutError as error:
            raise RedisTimeoutError(f"no response in {self._time_limit:g} s") from error
        except Exception as error:
            # After a reset uvloop raises RuntimeError; the next library something else. A fresh connection helps.
            await self.close()
            raise RedisConnectionError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            # Responses may still come, and would be taken for those of the next commands.
            await self.close()
            raise

    async def _connected(self) -> AbstractConnection:
        if self._master is not None and time.monotonic() > self._master_checked_at + MASTER_CHECK_SECONDS:
            connection = self._connection
            if connection is not None and await self._master() != (connection.host, connection.port):  # type: ignore[attr-defined]
                await self.close()
            self._master_checked_at = time.monotonic()
        if self._connection is not None and not self._watch.is_newest(self._server):
            await self.close()
        if self._connection is None:
            connection = self._new_connection()
            await connection.connect()  # type: ignore[no-untyped-call]
            [info] = await _responses(connection, _packed(("INFO", "server")), 1)
            # A user that may not ask is told nothing; then only STALE shows a loss.
            self._server = None if isinstance(info, Exception) else _run_id(info)
            self._watch.seen(self._server)
            self._connection = connection
        return self._connection

    def _new_connection(self) -> AbstractConnection:
        settings = {
            **self._pool.connection_kwargs,
            "socket_timeout": None,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
        }
        return self._pool.connection_class(**settings)

    def _confirmed(self, commands: list[Command], responses: list[Any]) -> list[Any]:
        """`responses` without the one to WAIT; what was written counts only if enough replicas have it."""
        replicas = responses.pop()
        if isinstance(replicas, int) and replicas >= self._wait_replicas:
            return responses
        late = StoreUnavailable(f"{replicas} of {self._wait_replicas} replicas have the write (REDIS_WAIT_REPLICAS).")
        return [
            late if command[0] == "EVALSHA" and not isinstance(response, Exception) else response
            for command, response in zip(commands, responses, strict=True)
        ]


async def _responses(connection: AbstractConnection, packed: bytes, count: int) -> list[Any]:
    await connection.send_packed_command(packed)
    responses: list[Any] = []
    for _ in range(count):
        try:
            responses.append(await connection.read_response())
        except ResponseError as refusal:
            responses.append(refusal)
    return responses


def _packed(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _run_id(info: bytes) -> bytes | None:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line.removeprefix(b"run_id:")
    return None
