"""One WebSocket as the edge uses it: whole messages in, text frames out, no task and no queue in between.

uvicorn's protocol does the handshake, keepalive, size limits and the closing handshake. In between, messages take a
shorter way than ASGI's: they are handed over as they are read, and frames that are ready together leave in one system
call, which is most of what a frame costs (decision 9).
"""

from collections.abc import Iterable
from typing import Any, Protocol, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from schemas.frames import CloseCode

WIRE = "supportstream.wire"
"""The extension of an ASGI scope under which a socket's `Wire` is."""


class Listener(Protocol):
    """Whoever serves the socket. Neither call may wait."""

    def received(self, data: bytes) -> None:
        """A whole message came."""

    def writable(self) -> None:
        """The client reads again: what waits may be written."""


class Wire(Protocol):
    """The socket, once it is accepted."""

    @property
    def blocked(self) -> bool:
        """The client reads more slowly than was written: keep back what comes next, or close."""

    def listen(self, listener: Listener) -> None:
        """Hands over every message from now on."""

    def write(self, frames: Iterable[str]) -> None:
        """Sends text frames together. Of no effect on a socket that is gone."""

    def close(self, code: int, reason: str, grace_seconds: float) -> None:
        """Tells the client why; a client that doesn't answer within `grace_seconds` is cut off."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class WireProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol as a `Wire`; use it as `ws` of uvicorn's configuration."""

    _listener: Listener | None = None

    @property
    def blocked(self) -> bool:
        return not self.writable.is_set()

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def write(self, frames: Iterable[str]) -> None:
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            return
        for text in frames:
            self.conn.send_text(text.encode())
        self.transport.write(b"".join(self.conn.data_to_send()))

    def close(self, code: int, reason: str, grace_seconds: float) -> None:
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        # To hear the client's answer.
        self.transport.resume_reading()
        # Not `transport.close`, which waits until everything is written: this client may never read again.
        self.close_timer = self.loop.call_later(grace_seconds, self.transport.abort)

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and not self.close_sent:
            cast(dict[str, Any], self.scope["extensions"])[WIRE] = self

    def send_receive_event_to_app(self) -> None:
        if self._listener is None:
            super().send_receive_event_to_app()
            return
        data = bytes(self.frames[0] if len(self.frames) == 1 else b"".join(self.frames))
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "text":
            try:
                data.decode()
            except UnicodeDecodeError:
                # RFC 6455 §8.1: such a connection is failed.
                self.close(CloseCode.INVALID_DATA, "not UTF-8", self.close_timeout)
                return
        self._listener.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener = None

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._listener is not None:
            self._listener.writable()
