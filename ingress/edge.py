"""The WebSocket edge: the shell that does what `ingress.connection` says."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import structlog

from ingress.access import SessionAccess
from ingress.connection import Arrival, CatchUp, Close, Command, Connection, Open, Publish, Send
from ingress.delivery import Delivery
from ingress.errors import IngressError
from ingress.history import arrivals_after, since
from ingress.inbound import InboundPublisher
from ingress.middleware import Receive, Scope, SendMessage
from ingress.origins import OriginPolicy
from schemas.errors import InvalidFrame
from schemas.frames import (
    SUBPROTOCOL,
    Accepted,
    CancelFrame,
    CloseCode,
    ErrorCode,
    ErrorFrame,
    FeedbackFrame,
    Hello,
    MessageFrame,
    decode_client_frame,
    encode_frame,
)
from schemas.inbound import Cancel, Feedback, InboundEvent, Message
from store.errors import StoreError
from store.protocol import SessionStore

log = structlog.get_logger(__name__)

CLOSE_GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Bounds of one socket. Times in seconds."""

    hello_timeout: float = 10.0
    outbox_frames: int = 48
    """Frames that may wait for a slow reader before it is closed; fewer than the store keeps to resume from."""


class EdgeObserver(Protocol):
    def socket_opened(self) -> None: ...

    def socket_closed(self, code: int) -> None: ...

    def frame_refused(self, code: str) -> None: ...


@dataclass(frozen=True, slots=True)
class EdgeParts:
    """What the edge works with; handed in by the composition root."""

    access: SessionAccess
    inbound: InboundPublisher
    delivery: Delivery
    store: SessionStore
    origins: OriginPolicy
    observer: EdgeObserver
    settings: EdgeSettings


class Edge:
    """Serves WebSockets, as an ASGI application: frames pass no layer of a framework."""

    def __init__(self, parts: EdgeParts) -> None:
        self._parts = parts
        self._sockets: set[Socket] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """One connection, from handshake to close."""
        await receive()  # websocket.connect
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._parts.origins.allows(headers):
            # Refused before the handshake: the browser sees 403.
            self._parts.observer.frame_refused("origin")
            await send({"type": "websocket.close", "code": CloseCode.FORBIDDEN, "reason": "origin not allowed"})
            return
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        socket = Socket(receive, send, self._parts)
        self._sockets.add(socket)
        try:
            await socket.run()
        finally:
            self._sockets.discard(socket)

    @property
    def sockets(self) -> int:
        return len(self._sockets)

    def close_all(self) -> None:
        """Tells every client to reconnect, to another process, and resume."""
        for socket in self._sockets:
            socket.close(CloseCode.SERVICE_RESTART, "restarting")


class Socket:
    """One WebSocket: a reader that is this task, and a writer so that a slow client delays nobody else."""

    def __init__(self, receive: Receive, send: SendMessage, parts: EdgeParts) -> None:
        self._receive = receive
        self._send_message = send
        self._parts = parts
        self._connection = Connection()
        self._outbox: deque[str] = deque()
        self._wake = asyncio.Event()
        self._writing = False
        self._closing: Close | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._catching_up: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self._parts.observer.socket_opened()
        code = int(CloseCode.GOING_AWAY)
        writer = asyncio.create_task(self._write(), name="socket-writer")
        reader = asyncio.create_task(self._read(), name="socket-reader")
        try:
            # Reader and writer may both be waiting for a client that does nothing.
            await asyncio.wait([writer, reader, self._closed], return_when=asyncio.FIRST_COMPLETED)
            if self._closing is not None:
                # The writer still has the reason to tell; a client that doesn't read it won't hold us up.
                await asyncio.wait([writer], timeout=CLOSE_GRACE_SECONDS)
                code = int(self._closing.code)
        finally:
            self._parts.delivery.unsubscribe(self._connection.session_id, self)
            tasks = [writer, reader, *self._catching_up]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._report(tasks)
            self._parts.observer.socket_closed(code)

    def arrived(self, arrival: Arrival) -> None:
        """A reply event of this session (`ingress.delivery.Subscriber`)."""
        self._do(self._connection.arrived(arrival))

    def delta(self, text: str) -> None:
        # Best effort: a slow reader gets the reply, not all the pieces.
        if len(self._outbox) < self._parts.settings.outbox_frames // 2:
            self._do(self._connection.delta(text))

    def close(self, code: CloseCode, reason: str) -> None:
        if self._closing is None:
            self._closing = Close(code, reason)
            self._closed.set_result(None)
            self._wake.set()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._parts.settings.hello_timeout):
                hello = await self._next_message()
        except TimeoutError:
            self.close(CloseCode.HELLO_TIMEOUT, "hello_timeout")
            return
        await self._handle(hello)
        while self._closing is None:
            await self._handle(await self._next_message())

    async def _next_message(self) -> str | bytes:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise Disconnected
        data: str | bytes = message.get("text") or message.get("bytes") or b""
        return data

    async def _handle(self, data: str | bytes) -> None:
        try:
            frame = decode_client_frame(data)
        except InvalidFrame as error:
            self._parts.observer.frame_refused(error.code)
            self._do(self._connection.receive(error))
            return
        for command in self._connection.receive(frame):
            match command:
                case Open(hello):
                    await self._open(hello)
                case Publish(asked):
                    await self._publish(asked)
                case _:
                    self._do([command])

    def _do(self, commands: list[Command]) -> None:
        """Commands that need no waiting."""
        for command in commands:
            match command:
                case Send(text):
                    self._send(text)
                case Close(code, reason):
                    self.close(code, reason)
                case CatchUp(after_seq):
                    task = asyncio.create_task(self._catch_up(after_seq), name="socket-catch-up")
                    self._catching_up.add(task)
                    task.add_done_callback(self._catching_up.discard)
                case _:
                    raise TypeError(f"{command} needs waiting")

    def _send(self, text: str) -> None:
        self._enqueue(text)
        self._wake.set()

    def _enqueue(self, text: str) -> None:
        if len(self._outbox) >= self._parts.settings.outbox_frames:
            self.close(CloseCode.TRY_AGAIN_LATER, "reading too slowly")
        else:
            self._outbox.append(text)

    async def _open(self, hello: Hello) -> None:
        parts = self._parts
        try:
            access = await parts.access.grant(hello.session_id, hello.token)
            self._connection.session_id = access.session_id
            # First subscribe, then read: what is published in between is buffered by the connection.
            parts.delivery.subscribe(access.session_id, self)
            newest, missed = await since(parts.store, access.session_id, hello.resume)
        except IngressError as error:
            parts.observer.frame_refused(error.code)
            self._do(self._connection.refused(error.code, error.message, retryable=error.status == 503))
            return
        except StoreError:
            log.exception("open_failed")
            reason = "The session can't be read at the moment. Connect again."
            self._do(self._connection.refused(ErrorCode.UNAVAILABLE, reason, retryable=True))
            return
        self._do(self._connection.opened(access.session_id, access.token, hello.resume, newest, missed))

    async def _publish(self, frame: MessageFrame | CancelFrame | FeedbackFrame) -> None:
        event = _inbound_event(frame, self._connection.session_id)
        try:
            await self._parts.inbound.publish(event)
        except IngressError as error:
            self._parts.observer.frame_refused(error.code)
            retryable = error.retry_after_seconds is not None
            refusal = ErrorFrame(code=error.code, message=error.message, retryable=retryable, id=event.id)
            self._send(encode_frame(refusal))
            return
        if isinstance(frame, MessageFrame):
            self._enqueue(encode_frame(Accepted(id=frame.id)))
            # At once: waking the writer would cost more than the frame.
            await self._flush()

    async def _catch_up(self, after_seq: int) -> None:
        try:
            arrivals = await arrivals_after(self._parts.store, self._connection.session_id, after_seq)
        except StoreError:
            log.exception("catch_up_failed")
            self.close(CloseCode.TRY_AGAIN_LATER, "the session can't be read")
            return
        self._do(self._connection.caught_up(arrivals))

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._flush()
            if self._closing is not None:
                code, reason = self._closing.code, self._closing.reason
                await self._send_message({"type": "websocket.close", "code": code, "reason": reason})
                return

    async def _flush(self) -> None:
        """Sends what waits, unless somebody is at it already."""
        if self._writing:
            return
        self._writing = True
        try:
            while self._outbox:
                await self._send_message({"type": "websocket.send", "text": self._outbox.popleft()})
        finally:
            self._writing = False

    def _report(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            # OSError: the client went away while we were sending.
            if error is not None and not isinstance(error, (Disconnected, OSError)):
                log.error("socket_failed", task=task.get_name(), exc_info=error)


class Disconnected(Exception):
    """The client closed the socket, or the network did."""


def _inbound_event(frame: MessageFrame | CancelFrame | FeedbackFrame, session_id: str) -> InboundEvent:
    match frame:
        case MessageFrame():
            return Message(id=frame.id, session_id=session_id, text=frame.text, attachments=frame.attachments)
        case CancelFrame():
            return Cancel(id=f"cancel:{frame.id}"[:128], session_id=session_id, target=frame.id)
        case FeedbackFrame():
            # A judgement may be given, taken back and given again: each is an event of its own.
            return Feedback(id=f"feedback-{uuid4()}", session_id=session_id, seq=frame.seq, score=frame.score)
