"""One WebSocket at the edge: the shell that does what `ingress.connection` says."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import structlog

from ingress.access import SessionAccess
from ingress.connection import Arrival, CatchUp, Close, Command, Connection, Open, Publish, Send
from ingress.delivery import Delivery
from ingress.errors import IngressError
from ingress.fingerprints import Client
from ingress.history import arrivals_after, since
from ingress.inbound import InboundPublisher
from ingress.wire import Wire
from schemas.errors import InvalidFrame
from schemas.frames import (
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
from store.cached import SessionReads
from store.errors import StoreError

log = structlog.get_logger(__name__)

CLOSE_GRACE_SECONDS = 10.0
"""How long a slow client has to read why it was closed."""
MAX_UNHANDLED_FRAMES = 16
"""Frames of one client that wait for their turn; beyond that nothing more is read from its socket."""


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """Bounds of one socket. Times in seconds."""

    hello_timeout: float = 10.0
    outbox_frames: int = 48
    """Frames that may wait for a slow reader before it is closed; fewer than the store keeps to resume from."""
    accepted_delay: float = 0.1
    """How long `accepted` may wait for the reply, to leave with it."""


class SocketObserver(Protocol):
    def socket_opened(self) -> None: ...

    def socket_closed(self, code: int) -> None: ...

    def frame_refused(self, code: str) -> None: ...


@dataclass(frozen=True, slots=True)
class SocketParts:
    """What a socket works with; handed in by the composition root."""

    access: SessionAccess
    inbound: InboundPublisher
    delivery: Delivery
    store: SessionReads
    observer: SocketObserver
    settings: SocketSettings


class Socket:
    """Takes one frame of its client after the other; what is sent to the client waits for nobody else's."""

    def __init__(self, wire: Wire, parts: SocketParts, client: Client) -> None:
        self._wire = wire
        self._parts = parts
        self._client = client
        self._fingerprint_hash: str | None = None
        self._connection = Connection()
        self._inbox: deque[bytes] = deque()
        self._outbox: deque[str] = deque()
        self._handling: asyncio.Task[None] | None = None
        """What the newest frame asked for, while it takes time."""
        self._catching_up: set[asyncio.Task[None]] = set()
        self._closing: Close | None = None
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._hello_timer: asyncio.TimerHandle | None = loop.call_later(
            parts.settings.hello_timeout, self.close, CloseCode.HELLO_TIMEOUT, "hello_timeout"
        )
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flush_by = 0.0
        """When what waits in the outbox leaves, with or without a reply."""

    def opened(self) -> None:
        self._parts.observer.socket_opened()
        self._wire.listen(self)

    def gone(self) -> None:
        """The connection is over."""
        self._parts.delivery.unsubscribe(self._connection.session_id, self)
        for timer in (self._hello_timer, self._flush_timer):
            if timer is not None:
                timer.cancel()
        for task in (*self._catching_up, *([self._handling] if self._handling else [])):
            task.cancel()
        self._parts.observer.socket_closed(int(self._closing.code if self._closing else CloseCode.GOING_AWAY))

    def close(self, code: CloseCode, reason: str) -> None:
        if self._closing is not None:
            return
        self._closing = Close(code, reason)
        try:
            if not self._wire.blocked:
                self._flush()
        finally:
            self._wire.close(code, reason, CLOSE_GRACE_SECONDS)

    def received(self, data: bytes) -> None:
        """The client sent a message (`ingress.wire.Listener`)."""
        if self._hello_timer is not None:
            self._hello_timer.cancel()
            self._hello_timer = None
        if self._handling is None:
            self._handle(data)
            return
        self._inbox.append(data)
        if len(self._inbox) == MAX_UNHANDLED_FRAMES:
            self._wire.pause_reading()

    def writable(self) -> None:
        self._flush()

    def arrived(self, arrival: Arrival) -> None:
        """A reply event of this session (`ingress.delivery.Subscriber`). What goes wrong with it closes this socket, so
        that its client comes again and resumes."""
        try:
            self._do(self._connection.arrived(arrival))
        except Exception:
            self.close(CloseCode.INTERNAL_ERROR, "internal error")
            raise

    def delta(self, text: str) -> None:
        # Best effort: a slow reader gets the reply, not all the pieces.
        if len(self._outbox) < self._parts.settings.outbox_frames // 2:
            self._do(self._connection.delta(text))

    def _handle(self, data: bytes) -> None:
        try:
            frame = decode_client_frame(data)
        except InvalidFrame as error:
            self._parts.observer.frame_refused(error.code)
            self._do(self._connection.receive(error))
        else:
            self._do(self._connection.receive(frame))

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send(text):
                    self._send(text)
                case Publish(asked):
                    self._start(self._publish(asked))
                case Open(hello):
                    self._start(self._open(hello))
                case CatchUp(after_seq):
                    task = self._loop.create_task(self._catch_up(after_seq), name="socket-catch-up")
                    self._catching_up.add(task)
                    task.add_done_callback(self._caught_up)
                case Close(code, reason):
                    self.close(code, reason)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._handling = self._loop.create_task(self._finish(work))

    async def _finish(self, work: Coroutine[None, None, None]) -> None:
        """Does what the newest frame asked for, then goes on with the next."""
        try:
            await work
        except Exception as error:
            self._fail(error)
        self._handling = None
        while self._inbox and self._handling is None and self._closing is None:
            if len(self._inbox) == MAX_UNHANDLED_FRAMES:
                self._wire.resume_reading()
            self._handle(self._inbox.popleft())

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self._catching_up.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.error("socket_failed", session_id=self._connection.session_id, exc_info=error)
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _send(self, text: str) -> None:
        self._enqueue(text)
        if not self._wire.blocked:
            self._flush()

    def _enqueue(self, text: str) -> None:
        if len(self._outbox) >= self._parts.settings.outbox_frames:
            self.close(CloseCode.TRY_AGAIN_LATER, "reading too slowly")
        else:
            self._outbox.append(text)

    def _flush(self) -> None:
        """Writes all that waits, in one go."""
        if self._outbox:
            self._wire.write(self._outbox)
            self._outbox.clear()

    def _enqueue_for_later(self, text: str) -> None:
        if not self._outbox:
            self._flush_by = self._loop.time() + self._parts.settings.accepted_delay
        self._enqueue(text)
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_at(self._flush_by, self._flush_late)

    def _flush_late(self) -> None:
        """A timer outlives what it was set for: setting one for each frame would cost more than the frame."""
        self._flush_timer = None
        if not self._outbox or self._wire.blocked:
            return
        if self._loop.time() < self._flush_by:
            self._flush_timer = self._loop.call_at(self._flush_by, self._flush_late)
        else:
            self._flush()

    async def _open(self, hello: Hello) -> None:
        parts = self._parts
        try:
            access = await parts.access.grant(hello.session_id, hello.token, self._client)
            self._connection.session_id = access.session_id
            self._fingerprint_hash = access.fingerprint_hash
            # First subscribe, then read: what is published in between is buffered by the connection.
            parts.delivery.subscribe(access.session_id, self)
            newest, missed = await since(parts.store, access.session_id, hello.resume)
        except IngressError as error:
            parts.observer.frame_refused(error.code)
            retryable = error.retry_after_seconds is not None
            self._do(self._connection.refused(error.code, error.message, retryable=retryable))
            return
        except StoreError:
            log.exception("open_failed")
            reason = "The session can't be read at the moment. Connect again."
            self._do(self._connection.refused(ErrorCode.UNAVAILABLE, reason, retryable=True))
            return
        self._do(self._connection.opened(access.session_id, access.token, hello.resume, newest, missed))

    async def _publish(self, frame: MessageFrame | CancelFrame | FeedbackFrame) -> None:
        event = _inbound_event(frame, self._connection.session_id, self._fingerprint_hash)
        try:
            await self._parts.inbound.publish(event)
        except IngressError as error:
            self._parts.observer.frame_refused(error.code)
            retryable = error.retry_after_seconds is not None
            refusal = ErrorFrame(code=error.code, message=error.message, retryable=retryable, id=event.id)
            self._send(encode_frame(refusal))
            return
        if isinstance(frame, MessageFrame):
            self._enqueue_for_later(encode_frame(Accepted(id=frame.id)))

    async def _catch_up(self, after_seq: int) -> None:
        try:
            arrivals = await arrivals_after(self._parts.store, self._connection.session_id, after_seq)
        except StoreError:
            log.exception("catch_up_failed")
            self.close(CloseCode.TRY_AGAIN_LATER, "the session can't be read")
            return
        self._do(self._connection.caught_up(arrivals))


def _inbound_event(
    frame: MessageFrame | CancelFrame | FeedbackFrame, session_id: str, fingerprint_hash: str | None
) -> InboundEvent:
    match frame:
        case MessageFrame():
            return Message(
                id=frame.id,
                session_id=session_id,
                text=frame.text,
                attachments=frame.attachments,
                fingerprint_hash=fingerprint_hash,
            )
        case CancelFrame():
            return Cancel(id=f"cancel:{frame.id}"[:128], session_id=session_id, target=frame.id)
        case FeedbackFrame():
            # A judgement may be given, taken back and given again: each is an event of its own.
            return Feedback(id=f"feedback-{uuid4()}", session_id=session_id, seq=frame.seq, score=frame.score)
