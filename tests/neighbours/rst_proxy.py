"""A TCP proxy that breaks connections as networks do: by RST, idle or in mid-exchange, or by silence."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum, auto
from types import TracebackType
from typing import Any, Self, TypeVar

from ops.local.ports import LOOPBACK, free_port

T = TypeVar("T")

_READ_BYTES = 64 * 1024
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on, with no time: `close` sends RST instead of FIN."""
_CALL_WITHIN_S = 10.0


class Side(StrEnum):
    CLIENT = auto()
    SERVER = auto()
    BOTH = auto()


@dataclass(eq=False, slots=True)
class _Link:
    """A client's connection and the one to the server behind it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    silent: bool = False
    """Bytes of it were swallowed. A stream with a hole would be another fault than silence, so it stays silent."""

    def reset(self, towards: Side) -> None:
        """RST towards this side, FIN towards the other."""
        for side, writer in ((Side.CLIENT, self.client), (Side.SERVER, self.server)):
            if towards in (side, Side.BOTH):
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            writer.transport.abort()


@dataclass
class RstProxy:
    """Listens on a port of its own and passes every connection on to `target_port`, both on loopback.

    It runs on a thread of its own; methods may be called from anywhere and block. Use it as a context manager.
    """

    target_port: int
    port: int = field(default_factory=free_port)
    resets: int = field(default=0, init=False)
    """Connections that were reset."""
    swallowed_bytes: int = field(default=0, init=False)
    _links: set[_Link] = field(default_factory=set, init=False)
    _armed: list[tuple[Side, Side]] = field(default_factory=list, init=False)
    """What resets the next exchanges: whose bytes are cut, and towards whom RST goes."""
    _swallowing: bool = field(default=False, init=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop, init=False)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set, init=False)
    _server: asyncio.Server | None = field(default=None, init=False)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._on_loop(lambda: len(self._links))

    def reset_all(self, towards: Side = Side.BOTH) -> int:
        """Resets every connection that is open now; how many those were."""

        def reset() -> int:
            links = list(self._links)
            for link in links:
                self._reset(link, towards)
            return len(links)

        return self._on_loop(reset)

    def reset_next_exchange(self, cut: Side, towards: Side = Side.BOTH) -> None:
        """The next piece that side `cut` sends, on whichever connection, is passed on by half; then RST."""
        assert cut is not Side.BOTH, "one side speaks first"
        self._on_loop(lambda: self._armed.append((cut, towards)))

    @property
    def armed(self) -> int:
        """How many resets of `reset_next_exchange` have not happened yet."""
        return self._on_loop(lambda: len(self._armed))

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Inside the block nothing gets through and nothing is refused. A connection that lost bytes stays silent
        afterwards, as one that a firewall forgot; new ones work."""
        self._on_loop(lambda: setattr(self, "_swallowing", True))
        try:
            yield
        finally:
            self._on_loop(lambda: setattr(self, "_swallowing", False))

    def start(self) -> None:
        threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True).start()
        self._server = self._wait(asyncio.start_server(self._connected, LOOPBACK, self.port))

    def stop(self) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.reset(Side.BOTH)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            from_server, server = await asyncio.open_connection(LOOPBACK, self.target_port)
        except OSError:
            client.transport.abort()
            return
        link = _Link(client, server)
        self._links.add(link)
        try:
            pumps = (
                asyncio.create_task(self._pump(link, Side.CLIENT, reader, server)),
                asyncio.create_task(self._pump(link, Side.SERVER, from_server, client)),
            )
            await asyncio.wait(pumps)
        finally:
            self._links.discard(link)
            for writer in (client, server):
                writer.transport.abort()

    async def _pump(
        self, link: _Link, speaker: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Passes on what `speaker` says, and that it has hung up."""
        try:
            while data := await reader.read(_READ_BYTES):
                if self._swallowing or link.silent:
                    link.silent = True
                    self.swallowed_bytes += len(data)
                    continue
                towards = self._cut(speaker)
                writer.write(data if towards is None else data[: len(data) // 2])
                await writer.drain()
                if towards is not None:
                    self._reset(link, towards)
                    return
        except OSError:
            # One end reset its connection: that is what the other is told, too.
            link.reset(Side.BOTH)
            return
        if not link.silent:
            writer.close()

    def _cut(self, speaker: Side) -> Side | None:
        """Towards whom the connection whose `speaker` has just spoken is to be reset, if it is."""
        for place, (cut, towards) in enumerate(self._armed):
            if cut is speaker:
                del self._armed[place]
                return towards
        return None

    def _reset(self, link: _Link, towards: Side) -> None:
        link.reset(towards)
        self.resets += 1

    def _on_loop(self, act: Callable[[], T]) -> T:
        async def run() -> T:
            return act()

        return self._wait(run())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_WITHIN_S)
