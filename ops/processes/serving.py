"""Running an ASGI application by uvicorn, until a signal says stop."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ingress.wire import WireProtocol
from ops.errors import OpsError
from ops.logs import hear_libraries
from schemas.frames import MAX_FRAME_BYTES

DRAIN_SECONDS = 10


class StopSignal:
    """Set by SIGTERM and SIGINT. A second one ends the process at once; nothing is lost by that either way."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._last_acts: list[Callable[[], None]] = []
        self._failure: Exception | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    async def wait(self) -> None:
        await self._event.wait()

    def then(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the signal comes; at once if it has come."""
        if self._event.is_set():
            callback()
        else:
            self._callbacks.append(callback)

    def fail(self, failure: Exception) -> None:
        """Ends the process as a signal does, and with an error: a part of it can't go on."""
        self._failure = self._failure or failure
        self.set()

    def raise_failure(self) -> None:
        """Raises what `fail` was told."""
        if self._failure is not None:
            raise self._failure

    def at_once(self, last_act: Callable[[], None]) -> None:
        """Calls `last_act` when a second signal ends the process."""
        self._last_acts.append(last_act)

    def set(self) -> None:
        if not self._event.is_set():
            self._event.set()
            for callback in self._callbacks:
                callback()

    def _received(self) -> None:
        if self._event.is_set():
            for last_act in self._last_acts:
                last_act()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        self.set()


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one place for them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OpsError: the port is taken, or the host is none of this machine's.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2_048, reuse_port=False
        )
    except OSError as error:
        raise OpsError(f"Can't listen on {host}:{port}: {error.strerror}. Choose another port.") from error


async def serve(app: Any, listener: socket.socket, stop: StopSignal) -> None:
    """Serves until `stop`; open requests then get `DRAIN_SECONDS`."""
    server = Server(
        uvicorn.Config(
            app,
            ws=WireProtocol,
            http="httptools",
            ws_max_size=MAX_FRAME_BYTES,
            # Small frames: compressing costs more memory and CPU than it saves.
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            # Who may set X-Forwarded-For is decided by an explicit list, not by uvicorn's default.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            lifespan="off",
        )
    )

    def leave() -> None:
        server.should_exit = True

    stop.then(leave)
    await server.serve(sockets=[listener])


def started() -> None:
    """Start-up is over."""
    hear_libraries()
    settle_memory()


def settle_memory() -> None:
    """Takes what start-up made out of the garbage collector's sight, and lets it look less often.

    A turn makes dozens of short-lived objects and hardly a cycle: reference counts free them, and looking for cycles
    after every 700 of them is work for nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
