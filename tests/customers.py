"""A customer as a WebSocket client: says hello, sends messages, keeps every frame that comes."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from schemas.frames import SUBPROTOCOL
from tests.processes import Process

Frame = dict[str, Any]
ANSWER_WITHIN_S = 30.0


def message_id() -> str:
    return f"m-{secrets.token_hex(6)}"


async def open_socket(ingress: Process, **arguments: Any) -> ClientConnection:
    """A WebSocket to this ingress, before hello."""
    return await connect(
        ingress.socket_url,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        max_size=None,
        proxy=None,
        open_timeout=ANSWER_WITHIN_S,
        **arguments,
    )


@dataclass
class Customer:
    """One socket on a session. Frames are read in the background and kept in the order in which they came."""

    socket: ClientConnection
    welcome: Frame
    frames: list[Frame] = field(default_factory=list)
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _taken: int = 0
    """How many of `frames` `take_sequenced` has looked at."""
    _noticed: int = 0
    """How many there were when `anything` returned last."""
    _reader: asyncio.Task[None] | None = None

    @classmethod
    async def join(
        cls,
        ingress: Process,
        session_id: str | None = None,
        token: str | None = None,
        resume: tuple[int, int] | None = None,
        **arguments: Any,
    ) -> Self:
        """Opens or resumes a session; the server must welcome us."""
        socket = await open_socket(ingress, **arguments)
        hello: Frame = {"type": "hello", "session_id": session_id, "token": token}
        if resume is not None:
            hello["resume"] = {"epoch": resume[0], "seq": resume[1]}
        await socket.send(orjson.dumps(hello).decode())
        welcome = orjson.loads(await asyncio.wait_for(socket.recv(), ANSWER_WITHIN_S))
        assert welcome["type"] == "welcome", welcome
        customer = cls(socket, welcome)
        customer._reader = asyncio.create_task(customer._read())
        return customer

    async def rejoin(self, ingress: Process) -> Self:
        """Another socket that resumes where this one stands."""
        return await self.join(ingress, self.session_id, self.token, self.position)

    @property
    def session_id(self) -> str:
        return str(self.welcome["session_id"])

    @property
    def token(self) -> str:
        return str(self.welcome["token"])

    @property
    def sequenced(self) -> list[Frame]:
        """Everything with a place in the session that this socket was shown, in order."""
        return [frame for frame in (*self.welcome["missed"], *self.frames) if frame.get("seq") is not None]

    def take_sequenced(self) -> list[Frame]:
        """What of `frames` has a place in the session and has come since this was asked last."""
        fresh = [frame for frame in self.frames[self._taken :] if frame.get("seq") is not None]
        self._taken = len(self.frames)
        return fresh

    @property
    def gone(self) -> bool:
        """Whether the connection ended."""
        return self._reader is None or self._reader.done()

    async def anything(self, within_s: float) -> None:
        """Returns when there are more frames than when it returned last, when the connection ended, or in time."""
        if len(self.frames) == self._noticed and not self.gone:
            self._came.clear()
            # Not wait_for: in 3.11 it may swallow a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._came.wait()
        self._noticed = len(self.frames)

    @property
    def position(self) -> tuple[int, int]:
        """The newest place that was shown, as `resume` wants it."""
        if self.sequenced:
            return self.sequenced[-1]["epoch"], self.sequenced[-1]["seq"]
        return self.welcome["epoch"], self.welcome["seq"]

    def of_type(self, kind: str) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == kind]

    async def say(self, text: str, id: str | None = None) -> str:
        """Sends a message; returns its id without waiting for anything."""
        id = id or message_id()
        await self.send({"type": "message", "id": id, "text": text})
        return id

    async def send(self, frame: Frame) -> None:
        await self.socket.send(orjson.dumps(frame).decode())

    async def ask(self, text: str, id: str | None = None) -> Frame:
        """The reply to `text`, or the error that it is refused with."""
        before = len(self.frames)
        id = await self.say(text, id)
        return await self.get(lambda frame: frame["type"] in ("reply", "error") and frame.get("id") == id, text, before)

    async def get(
        self, wanted: Callable[[Frame], bool], what: str, after: int = 0, within_s: float = ANSWER_WITHIN_S
    ) -> Frame:
        """The first frame that is wanted, from those that came or will come; the first `after` frames don't count.

        Raises:
            AssertionError: it did not come in time, or the connection was closed before.
        """
        end = asyncio.get_running_loop().time() + within_s
        while True:
            self._came.clear()
            for frame in self.frames[after:]:
                if wanted(frame):
                    return frame
            assert self._reader is not None
            assert not self._reader.done(), f"{what}: closed ({self.socket.close_code}) after {self._last()}"
            left = end - asyncio.get_running_loop().time()
            assert left > 0, f"{what}: not within {within_s:g} s; {self._last()}"
            try:
                await asyncio.wait_for(self._came.wait(), left)
            except TimeoutError:
                continue

    async def close(self) -> None:
        await self.socket.close()
        if self._reader is not None:
            await self._reader

    async def closed(self) -> int | None:
        """The code that the server closed with, once it has."""
        assert self._reader is not None
        await asyncio.wait_for(asyncio.shield(self._reader), ANSWER_WITHIN_S)
        return self.socket.close_code

    async def _read(self) -> None:
        try:
            async for data in self.socket:
                self.frames.append(orjson.loads(data))
                self._came.set()
        except ConnectionClosed:
            return
        finally:
            self._came.set()

    def _last(self) -> str:
        return f"{self.session_id} got {len(self.frames)} frames, the last: {self.frames[-3:]}"


@asynccontextmanager
async def customer(ingress: Process, *arguments: Any, **named: Any) -> AsyncIterator[Customer]:
    """A customer who leaves at the end of the block."""
    joined = await Customer.join(ingress, *arguments, **named)
    try:
        yield joined
    finally:
        await joined.close()
