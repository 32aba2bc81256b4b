"""The short way of frames says the same as the websockets library's own."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from ingress.framing import text_frame
from ingress.wire import WireProtocol

MAX_BYTES = 70_000
payloads = st.one_of(
    st.binary(max_size=200).map(lambda data: data.hex().encode()),
    st.sampled_from([b"x" * size for size in (0, 125, 126, 127, 65_535, 65_536, MAX_BYTES)]),
)


class Transport(asyncio.Transport):
    """Keeps what the server writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.answered = asyncio.Event()
        self.over = False

    def write(self, data: Any) -> None:
        self.written += data
        self.answered.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.over

    def close(self) -> None:
        self.over = True

    def abort(self) -> None:
        self.over = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Heard:
    """What the server's side was given (`ingress.wire.Listener`)."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def received(self, data: bytes) -> None:
        self.messages.append(data)

    def writable(self) -> None: ...


class Session:
    """A client of the websockets library, connected to a `WireProtocol`."""

    def __init__(self, early: Sequence[bytes] = ()) -> None:
        async def accept(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()

        config = uvicorn.Config(accept, ws=WireProtocol, ws_max_size=MAX_BYTES, ws_per_message_deflate=False)
        config.load()
        self.transport = Transport()
        self.server = WireProtocol(config, ServerState(), {})
        self.server.connection_made(self.transport)
        self.client = ClientProtocol(parse_uri("ws://testserver/ws"))
        self.client.send_request(self.client.connect())
        self.server.data_received(b"".join(self.client.data_to_send()))
        self.heard = Heard()
        self.early = early

    async def open(self) -> None:
        for segment in self.early:
            self.server.data_received(segment)
        await self.transport.answered.wait()
        self.client.receive_data(self.transport.written)
        assert self.client.state is State.OPEN
        self.server.listen(self.heard)


def cut(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`stream` in pieces, as a network may deliver it."""
    places = sorted({min(at, len(stream)) for at in cuts})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def sent(frames: Sequence[tuple[int, bytes, bool]]) -> bytes:
    return b"".join(Frame(Opcode(opcode), data, fin).serialize(mask=True) for opcode, data, fin in frames)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Messages, some of them in fragments and with pings in between, and the bytes that carry them."""
    messages, frames = [], []
    for payload in draw(st.lists(payloads, min_size=1, max_size=6)):
        if draw(st.booleans()):
            frames.append((0x9, b"ping", True))
        opcode = draw(st.sampled_from([0x1, 0x2]))
        if draw(st.booleans()):
            middle = len(payload) // 2
            frames += [(opcode, payload[:middle], False), (0x9, b"within", True), (0x0, payload[middle:], True)]
        else:
            frames.append((opcode, payload, True))
        messages.append(payload)
    return messages, sent(frames)


@given(conversations(), st.lists(st.integers(0, 400), max_size=8))
async def test_every_message_comes_whole_and_in_order_however_it_is_cut(
    conversation: tuple[list[bytes], bytes], cuts: list[int]
) -> None:
    messages, stream = conversation
    session = Session()
    await session.open()
    for segment in cut(stream, cuts):
        session.server.data_received(segment)
    assert session.heard.messages == messages
    assert not session.transport.over


@pytest.mark.parametrize("size", [1, 2, 3, 20])
async def test_what_a_client_sends_before_it_is_accepted_is_heard_too(size: int) -> None:
    stream = sent([(0x1, b"hello", True), (0x1, b"and more", True)])
    session = Session(early=[stream[:size]])
    await session.open()
    session.server.data_received(stream[size:])
    assert session.heard.messages == [b"hello", b"and more"]


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True), 1007),
        (Frame(Opcode.TEXT, b"unmasked").serialize(mask=False), 1002),
        (Frame(Opcode.TEXT, b"x" * (MAX_BYTES + 1)).serialize(mask=True), 1009),
        (sent([(0x1, b"begun", False), (0x1, b"another", True)]), 1002),
        (sent([(0x0, b"nothing to continue", True)]), 1002),
    ],
    # The streams have random masks, and all processes of a run must know a test by the same name.
    ids=["no utf-8", "unmasked", "too long", "begun twice", "nothing to continue"],
)
async def test_what_is_against_the_protocol_is_told_by_its_code(stream: bytes, code: int) -> None:
    session = Session()
    await session.open()
    session.transport.written = b""
    session.server.data_received(stream)
    session.client.receive_data(session.transport.written)
    assert session.client.close_rcvd is not None
    assert session.client.close_rcvd.code == code
    assert session.heard.messages == []


@given(payloads)
def test_a_written_frame_is_the_library_s(payload: bytes) -> None:
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


async def test_frames_that_are_ready_together_leave_together_and_a_client_reads_them() -> None:
    session = Session()
    await session.open()
    session.transport.written = b""
    session.server.write(["one", "two"])
    session.client.receive_data(session.transport.written)
    assert [event.data for event in session.client.events_received() if isinstance(event, Frame)] == [b"one", b"two"]
