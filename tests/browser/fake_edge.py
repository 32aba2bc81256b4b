"""A scripted edge: serves the chat page as the ingress does and speaks the server's side of the protocol.

It runs in a thread of its own; tests call it from theirs. Frames go through `schemas.frames` both ways, so
the page is held to the real protocol and this double can't drift from it.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from schemas.frames import (
    SUBPROTOCOL,
    Accepted,
    ClientFrame,
    DeltaFrame,
    ErrorCode,
    ErrorFrame,
    Hello,
    MessageFrame,
    ReplyFrame,
    SequencedFrame,
    ServerFrame,
    Welcome,
    decode_client_frame,
    encode_frame,
)
from schemas.replies import Citation

STATIC = Path(__file__).parents[2] / "ingress" / "static"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
EPOCH = 7
DEADLINE_S = 5.0

REFUNDS = Citation(
    doc_id="refunds",
    title="Refunds and returns",
    url="https://shop.example/help/refunds",
    passage="You can have a full refund within 30 days of purchase if the item is unused and in its original "
    "condition.",
    score=0.74,
)
TRACKING = Citation(
    doc_id="tracking",
    title="Tracking an order",
    passage="Enter your order number on the tracking page, or ask support to look it up.",
    score=0.43,
)
REFUND_ANSWER = (
    "Yes, you can have your money back. We refund the full price within 30 days of purchase, as long as the "
    "item is unused and in its original condition [1].\n\nTo start:\n- Have your order number at hand [2]\n"
    "- Tell us here which item you would like to return"
)

F = TypeVar("F", bound=ClientFrame)
Answer = Callable[[MessageFrame], tuple[str, list[Citation]] | None]


def refund_answer(message: MessageFrame) -> tuple[str, list[Citation]]:
    return REFUND_ANSWER, [REFUNDS, TRACKING]


def no_answer(message: MessageFrame) -> None:
    """The reply comes later, by `FakeEdge.reply`, or not at all."""


@dataclass
class FakeEdge:
    """What the page meets. Set the fields before the page does what they are about."""

    base_url: str
    answer: Answer = refund_answer
    accepting: bool = True
    """False: the WebSocket handshake is refused."""
    acknowledging: bool = True
    """False: messages are received, but Kafka never has them."""
    refuse_hello: ErrorCode | None = None
    history: list[SequencedFrame] = field(default_factory=list)
    received: list[tuple[int, ClientFrame]] = field(default_factory=list)
    """(number of the connection from 1, frame), in the order of arrival."""
    connections: int = 0
    _open: set[WebSocket] = field(default_factory=set)
    _transports: set[asyncio.Transport] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    def frames(self, kind: type[F]) -> list[F]:
        """What the page sent of this kind, over all connections."""
        return [frame for _, frame in self.received if isinstance(frame, kind)]

    def wait_for_frames(self, kind: type[F], count: int) -> list[F]:
        deadline = time.monotonic() + DEADLINE_S
        while len(self.frames(kind)) < count:
            assert time.monotonic() < deadline, f"no {count} {kind.__name__}: {self.received}"
            time.sleep(0.01)
        return self.frames(kind)

    def send(self, *frames: ServerFrame) -> None:
        self._run(self._broadcast(*frames))

    def stream(self, message_id: str, *pieces: str) -> None:
        self.send(*(DeltaFrame(id=message_id, n=n, text=piece) for n, piece in enumerate(pieces)))

    def reply(self, message: MessageFrame, text: str, citations: list[Citation] | None = None) -> None:
        self.send(self._record(message, text, citations or []))

    def close(self, code: int) -> None:
        self._run(self._close(code))

    def cut(self) -> None:
        """The network dies: no close frame, the browser reports 1006."""

        async def abort() -> None:
            for transport in list(self._transports):
                transport.abort()

        self._run(abort())

    def _run(self, what: Awaitable[None]) -> None:
        async def run() -> None:
            await what

        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE_S)

    def _record(self, message: MessageFrame, text: str, citations: list[Citation]) -> ReplyFrame:
        reply = ReplyFrame(
            epoch=EPOCH,
            seq=len(self.history) + 1,
            id=message.id,
            message=message.text,
            text=text,
            citations=citations,
            escalated=None,
            actor="agent",
        )
        self.history.append(reply)
        return reply

    async def _broadcast(self, *frames: ServerFrame) -> None:
        for websocket in list(self._open):
            for frame in frames:
                await websocket.send_text(encode_frame(frame))

    async def _close(self, code: int) -> None:
        for websocket in list(self._open):
            self._open.discard(websocket)
            await websocket.close(code)

    async def serve_socket(self, websocket: WebSocket) -> None:
        self._loop = asyncio.get_running_loop()
        self.connections += 1
        number = self.connections
        if not self.accepting:
            await websocket.close()
            return
        await websocket.accept(subprotocol=SUBPROTOCOL)
        try:
            while websocket.application_state is WebSocketState.CONNECTED:
                frame = decode_client_frame(await websocket.receive_text())
                self.received.append((number, frame))
                await self._serve_frame(websocket, frame)
        except WebSocketDisconnect:
            return
        finally:
            self._open.discard(websocket)

    async def _serve_frame(self, websocket: WebSocket, frame: ClientFrame) -> None:
        if isinstance(frame, Hello):
            if self.refuse_hello is not None:
                error = ErrorFrame(code=self.refuse_hello, message="The token is not valid.", retryable=False)
                await websocket.send_text(encode_frame(error))
                await websocket.close(4401)
                return
            await websocket.send_text(encode_frame(self._welcome(frame)))
            self._open.add(websocket)
        elif isinstance(frame, MessageFrame) and self.acknowledging:
            await websocket.send_text(encode_frame(Accepted(id=frame.id)))
            answer = self.answer(frame)
            if answer is not None:
                await self._broadcast(self._record(frame, *answer))

    def _welcome(self, hello: Hello) -> Welcome:
        """As the ingress says it: a session gets its epoch with its first turn."""
        epoch = EPOCH if self.history else 0
        resume = hello.resume
        seen = resume.seq if resume and resume.epoch == epoch else 0
        missed = [frame for frame in self.history if (frame.seq or 0) > seen] if resume else []
        in_step = resume is not None and (resume.epoch == epoch or resume.epoch == resume.seq == 0)
        return Welcome(
            session_id=hello.session_id or f"s-{self.connections}",
            token=hello.token or f"token-{self.connections}",
            epoch=epoch,
            seq=len(self.history),
            recovered=in_step and len(missed) == len(self.history) - seen,
            missed=missed,
        )


def _file(name: str) -> Response:
    path = STATIC / name
    return Response(path.read_bytes(), media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)


@contextmanager
def running_edge() -> Iterator[FakeEdge]:
    """A fake edge on a free port of this machine, until the block ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    # From here on connections wait for the server instead of being refused before it is up.
    listener.listen()
    edge = FakeEdge(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")

    class Protocol(WebSocketsSansIOProtocol):
        def connection_made(self, transport: Any) -> None:
            edge._transports.add(transport)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            edge._transports.discard(self.transport)
            super().connection_lost(exc)

    async def page(request: Request) -> Response:
        return _file("index.html")

    async def static(request: Request) -> Response:
        return _file(request.path_params["name"])

    app = Starlette(
        routes=[
            Route("/chat", page),
            Route("/chat/static/{name}", static),
            WebSocketRoute("/ws", edge.serve_socket),
        ]
    )
    config = uvicorn.Config(app, ws=Protocol, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield edge
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        listener.close()
        assert not thread.is_alive(), "the fake edge did not stop"
