"""A real redis-server without persistence."""

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.local.ports import LOOPBACK, free_port
from ops.local.process import ServerError, ServerProcess

_START_DEADLINE_S = 10.0
_PING_TIMEOUT_S = 1.0


class RedisServer:
    """One redis-server on a free loopback port; what it holds is gone when it ends."""

    def __init__(self, directory: Path, *, port: int | None = None, options: Sequence[str] = ()) -> None:
        """`directory` is its working directory and takes the log file; `options` come last on its command line."""
        self.port = free_port() if port is None else port
        self._directory = directory
        self._options = options
        self._server: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def server(self) -> ServerProcess:
        if self._server is None:
            self._server = ServerProcess("redis-server", self._command(), log_path=self._directory / "redis.log")
        return self._server

    def start(self) -> None:
        """Start the server and return once it answers.

        Raises:
            ServerError: redis-server is not installed, or it ended or was late.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self.server.start()
        self.server.wait_ready(self._answers, _START_DEADLINE_S)

    def stop(self) -> None:
        self.server.stop(grace_s=5.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        return [
            *(find_redis_server(), "--bind", LOOPBACK, "--port", str(self.port)),
            *("--dir", str(self._directory.resolve())),
            *("--save", "", "--appendonly", "no"),
            *self._options,
        ]

    def _answers(self) -> bool:
        with socket.create_connection((LOOPBACK, self.port), timeout=_PING_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")


def find_redis_server() -> str:
    """The program.

    Raises:
        ServerError: it is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise ServerError("redis-server is not installed. Run `make services`.")
    return program
