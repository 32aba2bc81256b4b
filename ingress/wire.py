"""One WebSocket as the edge uses it: whole messages in, text frames out, no task and no queue in between.

uvicorn's protocol does the handshake, keepalive, size limits and the closing handshake. In between, messages take a
shorter way than ASGI's: they are handed over as they are read, and frames that are ready together leave in one system
call, which is most of what a frame costs (decision 9).
"""

from collections.abc import Iterable
from typing import Any, Protocol, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from ingress.framing import next_frame, text_frame
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
        """Hands over every message, those that came before included."""

    def write(self, frames: Iterable[str]) -> None:
        """Sends text frames together. Of no effect on a socket that is gone."""

    def close(self, code: int, reason: str, grace_seconds: float) -> None:
        """Tells the client why; a client that doesn't answer within `grace_seconds` is cut off."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class WireProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol as a `Wire`; use it as `ws` of uvicorn's configuration."""

    _listener: Listener | None = None
    _early: tuple[bytes, ...] = ()
    """Messages from before somebody listened."""
    _partial: bytes = b""
    """The beginning of a frame whose rest is still on its way."""
    _library_reads: bool = True
    """The websockets library reads every frame: until somebody listens, and where it may be within one by then."""
    _within_a_frame: bool = False

    @property
    def blocked(self) -> bool:
        return not self.writable.is_set()

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        self._library_reads = self._within_a_frame
        early, self._early = self._early, ()
        for data in early:
            listener.received(data)
        if early:
            self.transport.resume_reading()

    def write(self, frames: Iterable[str]) -> None:
        if self.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(b"".join([text_frame(text.encode()) for text in frames]))

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

    def data_received(self, data: bytes) -> None:
        if self._library_reads:
            # All but the request itself may end anywhere.
            self._within_a_frame = self.handshake_initiated or not data.endswith(b"\r\n\r\n")
            super().data_received(data)
            return
        if self._partial:
            data = self._partial + data
        start = 0
        try:
            while (frame := next_frame(data, start, self.config.ws_max_size)) is not None:
                if frame.text is None or self.frames:
                    # A control frame, a fragment, or against the protocol.
                    super().data_received(data[start : frame.end])
                else:
                    self._hand_over(frame.text, is_text=True)
                start = frame.end
        except ValueError:
            # Too large; the library closes the connection for that.
            self._library_reads = True
            super().data_received(data[start:])
            return
        self._partial = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener = None

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            cast(dict[str, Any], self.scope["extensions"])[WIRE] = self

    def send_receive_event_to_app(self) -> None:
        data, self.frames = b"".join(self.frames), []
        self._hand_over(data, is_text=self.curr_msg_data_type == "text")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._listener is not None:
            self._listener.writable()

    def _hand_over(self, data: bytes, *, is_text: bool) -> None:
        if self.close_sent:
            return
        if is_text:
            try:
                data.decode()
            except UnicodeDecodeError:
                # RFC 6455 §8.1: such a connection is failed.
                self.close(CloseCode.INVALID_DATA, "not UTF-8", self.close_timeout)
                return
        if self._listener is None:
            self._early += (data,)
            self.transport.pause_reading()
        else:
            self._listener.received(data)
