"""A client of the WebSocket edge: asks, streams the answer, reconnects and resumes by itself."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
import stamina
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ops.errors import OpsError
from schemas.frames import MAX_FRAME_BYTES, SUBPROTOCOL

Frame = dict[str, Any]


class ConnectionLost(Exception):
    """The socket is gone; connecting again resumes."""


class Refused(OpsError):
    """The server said no, and would again."""


@dataclass(slots=True)
class ChatClient:
    """One session over one socket at a time. Not for concurrent use."""

    url: str
    """Of the server, like http://127.0.0.1:8000."""
    session_id: str | None = None
    token: str | None = None
    on_reconnect: Callable[[], None] = lambda: None
    _position: tuple[int, int] | None = None
    _socket: ClientConnection | None = None
    _missed: list[Frame] = field(default_factory=list)

    async def ask(self, text: str, on_delta: Callable[[str], None] = lambda piece: None) -> Frame:
        """The reply frame to `text`. Survives lost connections: the message has one id, however often it is sent.

        Raises:
            Refused: the message or the session is not accepted, or was not answered.
            OpsError: no connection for a minute.
        """
        message = {"type": "message", "id": str(uuid4()), "text": text}
        try:
            async for attempt in stamina.retry_context(
                on=ConnectionLost, attempts=None, timeout=60.0, wait_initial=0.2, wait_max=5.0
            ):
                with attempt:
                    if self._socket is None:
                        await self._connect(again=attempt.num > 1)
                    return await self._exchange(message, on_delta)
        except ConnectionLost as error:
            raise OpsError(f"No connection to {self.url}: {error}") from error
        raise AssertionError("a retry context ends by return or raise")

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    async def _exchange(self, message: Frame, on_delta: Callable[[str], None]) -> Frame:
        assert self._socket is not None
        for frame in self._missed:
            if frame["id"] == message["id"]:
                return _answer(frame)
        try:
            await self._socket.send(orjson.dumps(message).decode())
            while True:
                frame = orjson.loads(await self._socket.recv())
                if frame["type"] == "delta" and frame["id"] == message["id"]:
                    on_delta(frame["text"])
                if frame.get("seq") is not None:
                    self._position = (frame["epoch"], frame["seq"])
                if frame.get("id") != message["id"]:
                    continue
                if frame["type"] in ("reply", "session", "error"):
                    return _answer(frame)
        except (ConnectionClosed, OSError) as error:
            self._socket = None
            raise ConnectionLost(str(error)) from error

    async def _connect(self, *, again: bool) -> None:
        if again:
            self.on_reconnect()
        hello: Frame = {"type": "hello"}
        if self.session_id is not None:
            hello["session_id"] = self.session_id
        if self.token is not None:
            hello["token"] = self.token
        if self._position is not None:
            hello["resume"] = {"epoch": self._position[0], "seq": self._position[1]}
        try:
            socket = await connect(
                self.url.replace("http", "ws", 1) + "/ws",
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
                max_size=2 * MAX_FRAME_BYTES * 50,
                compression=None,
                open_timeout=10,
                proxy=None,
            )
            await socket.send(orjson.dumps(hello).decode())
            async with asyncio.timeout(15):
                welcome = orjson.loads(await socket.recv())
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
            raise ConnectionLost(str(error) or "timed out") from error
        if welcome["type"] == "error":
            await socket.close()
            if welcome["retryable"]:
                raise ConnectionLost(welcome["message"])
            raise Refused(welcome["message"])
        self.session_id, self.token = welcome["session_id"], welcome["token"]
        self._position = (welcome["epoch"], welcome["seq"])
        self._missed = welcome["missed"]
        self._socket = socket


def _answer(frame: Frame) -> Frame:
    """The frame, if it is a reply; raises what else it says about the message."""
    if frame["type"] == "reply":
        return frame
    if frame["type"] == "session":
        raise Refused("A person has the conversation and will answer.")
    if frame["retryable"]:
        raise ConnectionLost(frame["message"])
    raise Refused(frame["message"])
