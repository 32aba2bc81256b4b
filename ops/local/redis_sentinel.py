"""A Redis master with replicas, and the sentinels that promote a replica when the master is gone."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import hiredis

from ops.local.ports import LOOPBACK, free_ports
from ops.local.process import ServerError
from ops.local.redis import RedisServer
from ops.local.redis_call import call
from ops.local.sentinel import MASTER_NAME, Sentinel

_MARK = "supportstream:in-sync"
_START_DEADLINE_S = 30.0
_FAIL_OVER_DEADLINE_S = 30.0
_POLL_INTERVAL_S = 0.05

T = TypeVar("T")


class RedisSentinels:
    """One master, `replicas` replicas of it, and `sentinels` sentinels of which a majority decides.

    All methods block; from a coroutine call them through `asyncio.to_thread`. What was killed may be started again:
    a sentinel goes on, an old master comes back empty and is made a replica some 10 seconds later.
    """

    master_name = MASTER_NAME

    def __init__(self, directory: Path, *, replicas: int = 2, sentinels: int = 3) -> None:
        ports = free_ports(1 + replicas + sentinels)
        first, *others = ports[: 1 + replicas]
        options = ("--repl-diskless-sync-delay", "0")
        self.servers = [
            RedisServer(directory / "server-1", port=first, options=options),
            *(
                RedisServer(
                    directory / f"server-{n}", port=port, options=(*options, "--replicaof", LOOPBACK, str(first))
                )
                for n, port in enumerate(others, start=2)
            ),
        ]
        self.sentinels = [
            Sentinel(directory / f"sentinel-{n}", port=port, quorum=sentinels // 2 + 1)
            for n, port in enumerate(ports[1 + replicas :], start=1)
        ]
        self._master = self.servers[0]
        self._running = ExitStack()

    @property
    def sentinel_addresses(self) -> list[tuple[str, int]]:
        return [(LOOPBACK, sentinel.port) for sentinel in self.sentinels]

    @property
    def url(self) -> str:
        """Not a URL of Redis' own: the sentinels' addresses, the master's name, the database."""
        addresses = ",".join(f"{host}:{port}" for host, port in self.sentinel_addresses)
        return f"redis+sentinel://{addresses}/{self.master_name}/0"

    @property
    def master(self) -> RedisServer:
        """The master of the start, or whom `fail_over` or `wait_for_new_master` returned last; it may be dead."""
        return self._master

    @property
    def replicas(self) -> list[RedisServer]:
        """All servers but `master`; after a kill the old master is one of them, and dead."""
        return [server for server in self.servers if server is not self._master]

    def start(self) -> None:
        """Start all and return once the replicas are in sync and each sentinel knows all servers and sentinels.

        Raises:
            ServerError: redis-server is not installed, or a process ended or was late; none is left running.
        """
        self._master = self.servers[0]
        with ExitStack() as started:
            for server in self.servers:
                started.enter_context(server)
            self.wait_for_replicas(_START_DEADLINE_S)
            for sentinel in self.sentinels:
                sentinel.watch(self._master.port)
                started.enter_context(sentinel)
            for sentinel in self.sentinels:
                knows_all = partial(sentinel.knows, len(self.replicas), len(self.sentinels))
                sentinel.server.wait_ready(knows_all, _START_DEADLINE_S)
            self._running = started.pop_all()

    def stop(self) -> None:
        """End the sentinels before the servers, lest they fail over once more."""
        self._running.close()

    def fail_over(self, deadline_s: float = _FAIL_OVER_DEADLINE_S) -> RedisServer:
        """Have a sentinel promote a replica while the master lives; return as `wait_for_new_master` does.

        The sentinels make a replica of the old master some 10 seconds later. Until then it accepts writes, and they
        are lost. So that it is no candidate meanwhile, this waits for all replicas first.

        Raises:
            ServerError: no replica was promoted in `deadline_s` seconds.
        """
        end = time.monotonic() + deadline_s
        self.wait_for_replicas(deadline_s)
        _poll(self._order_failover, end, "no sentinel took the order to fail over")
        return self.wait_for_new_master(end - time.monotonic())

    def kill_master(self) -> None:
        """End the master as a crash would (SIGKILL); the sentinels notice after a second."""
        self._master.server.kill()

    def wait_for_new_master(self, deadline_s: float = _FAIL_OVER_DEADLINE_S) -> RedisServer:
        """Return as soon as all living sentinels name the same other server and it accepts writes.

        Raises:
            ServerError: not within `deadline_s` seconds.
        """
        end = time.monotonic() + deadline_s
        self._master = _poll(self._successor, end, "the sentinels agreed on no new master")
        return self._master

    def wait_for_replicas(self, deadline_s: float = _FAIL_OVER_DEADLINE_S) -> None:
        """Return as soon as all living servers replicate the master.

        Raises:
            ServerError: not within `deadline_s` seconds.
        """
        end = time.monotonic() + deadline_s
        # A replica says that it is up as much as a second before it is sent anything.
        mark = str(time.monotonic_ns())
        call(self._master.port, "SET", _MARK, mark)
        for server in self.replicas:
            if server.server.running:
                problem = f"the server on port {server.port} did not follow the master"
                _poll(partial(self._in_sync, server, mark), end, problem)
        call(self._master.port, "DEL", _MARK)

    def stop_replication(self) -> None:
        """Cut the replicas off: from here on the master's writes are on the master only, and are lost with it.

        What was written before may not have arrived everywhere; WAIT says so. Kill the master within 10 seconds:
        a replica that was cut off for longer is too old for the sentinels to promote.
        """
        # The refusal lasts exactly as long as the master's process, so there is nothing to undo. Pausing the
        # replicas instead would lose nothing: what is in their sockets reaches them once they go on.
        call(self._master.port, "ACL", "SETUSER", "default", "-psync", "-sync")
        call(self._master.port, "CLIENT", "KILL", "TYPE", "replica")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _in_sync(self, replica: RedisServer, mark: str) -> bool:
        lines: list[str] = call(replica.port, "INFO", "replication").split()
        is_up = {f"master_port:{self._master.port}", "master_link_status:up"}.issubset(lines)
        return is_up and bool(call(replica.port, "GET", _MARK) == mark)

    def _order_failover(self) -> bool:
        living = [sentinel for sentinel in self.sentinels if sentinel.server.running]
        return bool(living) and call(living[0].port, "SENTINEL", "FAILOVER", self.master_name) == "OK"

    def _successor(self) -> RedisServer | None:
        named = {sentinel.master_port() for sentinel in self.sentinels if sentinel.server.running}
        for server in self.replicas:
            if named == {server.port}:
                # A server that is still a replica refuses it, even if there is no such key.
                call(server.port, "DEL", "supportstream:accepts-writes")
                return server
        return None


def _poll(check: Callable[[], T | None], end: float, problem: str) -> T:
    """The first truthy result of `check`; no reply and a refusal mean "not yet"."""
    last_error: Exception | None = None
    while True:
        try:
            if found := check():
                return found
        except (OSError, hiredis.ReplyError) as error:
            last_error = error
        if time.monotonic() > end:
            raise ServerError(f"{problem} in time" + (f" ({last_error})" if last_error else ""))
        time.sleep(_POLL_INTERVAL_S)
