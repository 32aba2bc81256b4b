"""The WebSocket edge, as a server and a client see it: frames in, frames out, and how it ends."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest

from ingress.edge import Edge
from ingress.fingerprints import Client as Looks
from ingress.fingerprints import FingerprintMode
from ingress.origins import OriginPolicy
from ingress.refusals import RecordRefused
from ingress.socket import MAX_UNHANDLED_FRAMES, SocketParts, SocketSettings
from ingress.wire import WIRE, Listener
from schemas.frames import SUBPROTOCOL, CloseCode
from schemas.inbound import Message
from schemas.publishing import BrokerUnavailable
from store.errors import StoreUnavailable
from tests.unit.ingress.fakes import ALICE, MALLORY, Pipeline

DEADLINE_S = 5.0


async def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        await asyncio.sleep(0.001)


class Counting:
    def __init__(self) -> None:
        self.closed: list[int] = []
        self.refused: list[str] = []

    def socket_opened(self) -> None: ...

    def socket_closed(self, code: int) -> None:
        self.closed.append(code)

    def frame_refused(self, code: str) -> None:
        self.refused.append(code)


class Client:
    """A client and the server's side of its socket (`ingress.wire.Wire`); it reads unless it is told to `stall`."""

    def __init__(self, edge: Edge, *, origin: str | None = None, client: Looks = ALICE) -> None:
        headers = [
            (b"host", b"testserver"),
            (b"user-agent", client.user_agent.encode()),
            *([(b"origin", origin.encode())] if origin else []),
        ]
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._unsaid: list[bytes] = []
        self._listener: Listener | None = None
        self._buffered: list[str] = []
        self.blocked = False
        self.reading = True
        self.events: deque[dict[str, Any]] = deque()
        self.writes: list[list[str]] = []
        self.task = asyncio.create_task(
            edge(
                {
                    "type": "websocket",
                    "path": "/ws",
                    "client": (client.address, 40_000),
                    "headers": headers,
                    "subprotocols": [SUBPROTOCOL],
                    "extensions": {WIRE: self},
                },
                self._incoming.get,
                self._send,
            )
        )

    async def _send(self, message: Any) -> None:
        self.events.append(message)

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        for data in self._unsaid:
            listener.received(data)

    def write(self, frames: Iterable[str]) -> None:
        together = list(frames)
        self.writes.append(together)
        self.events.extend({"type": "websocket.send", "text": text} for text in together)

    def close(self, code: int, reason: str, grace_seconds: float) -> None:
        self.events.append({"type": "websocket.close", "code": code, "reason": reason})
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": code})

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def stall(self) -> None:
        self.blocked = True

    def read_on(self) -> None:
        self.blocked = False
        assert self._listener is not None
        self._listener.writable()

    def say(self, **frame: object) -> None:
        self.say_raw(orjson.dumps(frame).decode())

    def say_raw(self, text: str) -> None:
        if self._listener is None:
            self._unsaid.append(text.encode())
        else:
            self._listener.received(text.encode())

    async def leave(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await asyncio.wait_for(self.task, DEADLINE_S)

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [orjson.loads(event["text"]) for event in self.events if event["type"] == "websocket.send"]

    def got(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]

    async def closed(self) -> int:
        """How the server ended it."""
        await until(lambda: any(event["type"] == "websocket.close" for event in self.events))
        await asyncio.wait_for(self.task, DEADLINE_S)
        return int(self.events[-1]["code"])


class Server:
    def __init__(
        self,
        *,
        outbox: int = 512,
        hello_timeout: float = 5.0,
        accepted_delay: float = 0.0,
        fingerprinting: FingerprintMode = "off",
    ) -> None:
        self.pipeline = Pipeline(fingerprinting)
        self.observer = Counting()
        self.edge = Edge(
            SocketParts(
                access=self.pipeline.access,
                inbound=self.pipeline.inbound,
                delivery=self.pipeline.delivery,
                store=self.pipeline.store,
                observer=self.observer,
                settings=SocketSettings(
                    hello_timeout=hello_timeout, outbox_frames=outbox, accepted_delay=accepted_delay
                ),
            ),
            OriginPolicy(),
        )

    async def opened(self, **hello: object) -> tuple[Client, dict[str, Any]]:
        client = Client(self.edge)
        client.say(type="hello", **hello)
        await until(lambda: bool(client.got("welcome")))
        return client, client.got("welcome")[0]


async def test_a_message_is_accepted_when_kafka_has_it_and_then_answered_once() -> None:
    """L, D"""
    server = Server()
    client, welcome = await server.opened()
    client.say(type="message", id="m1", text="Hello")
    await until(lambda: bool(client.got("accepted") and client.got("reply")))
    assert [frame["id"] for frame in client.got("accepted")] == ["m1"]
    (reply,) = client.got("reply")
    assert (reply["id"], reply["seq"], reply["text"]) == ("m1", 1, "Answer to Hello")
    assert server.pipeline.published[0].key == welcome["session_id"].encode()
    await client.leave()
    assert (server.edge.sockets, server.pipeline.delivery.sessions) == (0, 0)


async def test_a_message_that_kafka_does_not_take_is_an_error_and_not_accepted() -> None:
    """L"""
    server = Server()
    client, _ = await server.opened()
    server.pipeline.failure = BrokerUnavailable("away")
    client.say(type="message", id="m1", text="Hello")
    await until(lambda: bool(client.got("error")))
    (error,) = client.got("error")
    assert (error["code"], error["retryable"], error["id"]) == ("unavailable", True, "m1")
    server.pipeline.failure = None
    client.say(type="message", id="m1", text="Hello")
    await until(lambda: bool(client.got("reply")))
    await client.leave()


async def test_a_bad_frame_is_told_and_the_next_good_one_works() -> None:
    server = Server()
    client, _ = await server.opened()
    for text in ("{", "{}", '{"type": "message", "id": "m1", "text": ""}', "x" * 70_000):
        client.say_raw(text)
    client.say(type="message", id="m2", text="Hello")
    await until(lambda: bool(client.got("reply")))
    codes = [frame["code"] for frame in client.got("error")]
    assert codes == ["bad_json", "unknown_type", "invalid_field", "too_large"]
    assert server.observer.refused == codes
    await client.leave()


async def test_two_sockets_of_a_session_both_get_every_reply_and_one_may_leave() -> None:
    server = Server()
    one, welcome = await server.opened()
    two, _ = await server.opened(session_id=welcome["session_id"], token=welcome["token"])
    one.say(type="message", id="m1", text="Hello")
    await until(lambda: bool(one.got("reply") and two.got("reply")))
    await one.leave()
    two.say(type="message", id="m2", text="Still here")
    await until(lambda: len(two.got("reply")) == 2)
    await two.leave()


async def test_who_comes_back_gets_what_was_missed_once() -> None:
    """D, L"""
    server = Server()
    client, welcome = await server.opened()
    client.say(type="message", id="m1", text="one")
    await until(lambda: bool(client.got("reply")))
    await client.leave()
    session, token = welcome["session_id"], welcome["token"]
    other, _ = await server.opened(session_id=session, token=token)
    other.say(type="message", id="m2", text="two")
    await until(lambda: bool(other.got("reply")))
    back, again = await server.opened(session_id=session, token=token, resume={"epoch": 1_000, "seq": 1})
    assert again["recovered"] is True
    assert [frame["id"] for frame in again["missed"]] == ["m2"]
    await other.leave()
    await back.leave()


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"type": "message", "id": "m1", "text": "Hello"}, CloseCode.PROTOCOL),
        ({"type": "hello", "token": "forged"}, CloseCode.UNAUTHORIZED),
        ({"type": "hello", "session_id": "s-somebody-else"}, CloseCode.UNAUTHORIZED),
    ],
)
async def test_who_may_not_open_is_told_and_closed(first: dict[str, object], code: CloseCode) -> None:
    """X"""
    server = Server()
    client = Client(server.edge)
    client.say(**first)
    assert await client.closed() == code
    assert len(client.got("error")) == 1
    assert server.pipeline.published == []
    assert server.pipeline.delivery.sessions == 0


async def test_strict_a_stolen_token_opens_nothing_from_elsewhere() -> None:
    """X"""
    server = Server(fingerprinting="strict")
    alice, welcome = await server.opened()
    alice.say(type="message", id="m1", text="Hello")
    await until(lambda: bool(alice.got("reply")))
    mallory = Client(server.edge, client=MALLORY)
    mallory.say(type="hello", token=welcome["token"])
    assert await mallory.closed() == CloseCode.FORBIDDEN
    assert [(frame["type"], frame["code"]) for frame in mallory.frames] == [("error", "fingerprint_mismatch")]
    assert server.observer.refused == ["fingerprint_mismatch"]
    again, _ = await server.opened(token=welcome["token"], resume={"epoch": 1_000, "seq": 1})
    await again.leave()
    await alice.leave()


async def test_a_foreign_page_is_refused_before_the_handshake() -> None:
    """X"""
    server = Server()
    client = Client(server.edge, origin="https://evil.example")
    assert await client.closed() == CloseCode.FORBIDDEN
    assert [event["type"] for event in client.events] == ["websocket.close"]


async def test_who_never_says_hello_is_closed() -> None:
    server = Server(hello_timeout=0.02)
    assert await Client(server.edge).closed() == CloseCode.HELLO_TIMEOUT


async def test_a_claim_that_takes_long_is_not_the_client_s_fault() -> None:
    server = Server(hello_timeout=0.02)
    server.pipeline.answers = False
    client = Client(server.edge)
    client.say(type="hello", session_id="order-7")
    assert await client.closed() == CloseCode.TRY_AGAIN_LATER
    assert client.got("error")[0]["retryable"] is True


async def test_a_store_that_is_away_says_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    server = Server()
    monkeypatch.setattr(server.pipeline.store, "newest_event", away)
    client = Client(server.edge)
    client.say(type="hello")
    assert await client.closed() == CloseCode.TRY_AGAIN_LATER


async def test_a_reply_that_comes_while_the_session_is_opened_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """L, D: it is neither in what the store had, nor published later: it was published in between."""
    server = Server()
    server.pipeline.answers = False
    session_id = "s-1"
    read = server.pipeline.store.newest_event

    async def read_before_a_turn(asked: str) -> bytes | None:
        newest = await read(asked)
        await server.pipeline.decide(Message(id="m1", session_id=session_id, text="Hello"))
        return newest

    monkeypatch.setattr(server.pipeline.store, "newest_event", read_before_a_turn)
    token = server.pipeline.tokens.issue(session_id)
    client, welcome = await server.opened(session_id=session_id, token=token, resume={"epoch": 0, "seq": 0})
    await until(lambda: bool(client.got("reply")))
    assert welcome["missed"] == []
    assert [frame["id"] for frame in client.got("reply")] == ["m1"]
    await client.leave()


async def test_accepted_and_a_quick_reply_leave_together() -> None:
    server = Server(accepted_delay=60.0)
    server.pipeline.answers = False
    client, welcome = await server.opened()
    client.say(type="message", id="m1", text="Hello")
    await until(lambda: server.pipeline.accepted == 1)
    await server.pipeline.decide(Message(id="m1", session_id=welcome["session_id"], text="Hello"))
    assert [orjson.loads(text)["type"] for text in client.writes[-1]] == ["accepted", "reply"]
    await client.leave()


async def test_accepted_does_not_wait_for_a_slow_reply() -> None:
    server = Server(accepted_delay=0.01)
    server.pipeline.answers = False
    client, _ = await server.opened()
    client.say(type="message", id="m1", text="Hello")
    await until(lambda: bool(client.got("accepted")))
    await client.leave()


async def test_a_reader_that_stalls_for_a_moment_loses_nothing() -> None:
    """L"""
    server = Server(outbox=48)
    slow, welcome = await server.opened()
    quick, _ = await server.opened(session_id=welcome["session_id"], token=welcome["token"])
    slow.stall()
    for n in range(5):
        quick.say(type="message", id=f"m{n}", text="Hello")
    await until(lambda: len(quick.got("reply")) == 5)
    assert slow.got("reply") == []
    slow.read_on()
    assert [frame["seq"] for frame in slow.got("reply")] == [1, 2, 3, 4, 5]
    await slow.leave()
    await quick.leave()


async def test_a_slow_reader_is_closed_and_delays_no_other_socket_of_its_session() -> None:
    """P: a dead client holds no socket and no subscription."""
    server = Server(outbox=8)
    slow, welcome = await server.opened()
    quick, _ = await server.opened(session_id=welcome["session_id"], token=welcome["token"])
    slow.stall()
    for n in range(20):
        quick.say(type="message", id=f"m{n}", text="Hello")
    await until(lambda: len(quick.got("reply")) == 20)
    assert await slow.closed() == CloseCode.TRY_AGAIN_LATER
    assert server.edge.sockets == 1
    await quick.leave()


async def test_a_client_that_sends_faster_than_kafka_takes_is_read_no_further() -> None:
    """P: what waits for one client is bounded, and each of its messages is still taken, in order."""
    server = Server()
    client, _ = await server.opened()
    ids = [f"m{n}" for n in range(3 * MAX_UNHANDLED_FRAMES)]
    said = 0
    while said < len(ids):
        if client.reading:
            client.say(type="message", id=ids[said], text="Hello")
            said += 1
            assert said - len(server.pipeline.published) <= MAX_UNHANDLED_FRAMES + 1
        else:
            await asyncio.sleep(0)
    await until(lambda: len(client.got("reply")) == len(ids))
    assert [frame["id"] for frame in client.got("reply")] == ids
    await client.leave()


async def test_a_client_that_sends_without_reading_is_bounded_too() -> None:
    """P: what waits for one client never outgrows its outbox."""
    server = Server(outbox=8)
    client, _ = await server.opened()
    client.stall()
    for n in range(16):
        client.say(type="message", id=f"m{n}", text="Hello")
    assert await client.closed() == CloseCode.TRY_AGAIN_LATER


async def test_a_restart_tells_every_client_to_come_again() -> None:
    server = Server()
    clients = [(await server.opened())[0] for _ in range(3)]
    server.edge.close_all()
    assert [await client.closed() for client in clients] == [CloseCode.SERVICE_RESTART] * 3
    assert server.edge.sockets == 0


async def test_what_goes_wrong_with_a_reply_closes_its_socket_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """P: the client comes again and resumes."""
    server = Server()
    broken, welcome = await server.opened()
    sound, _ = await server.opened(session_id=welcome["session_id"], token=welcome["token"])

    def fails(frames: Iterable[str]) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport>")

    with monkeypatch.context() as patched:
        patched.setattr(broken, "write", fails)
        server.pipeline.answers = False
        event = Message(id="m1", session_id=welcome["session_id"], text="Hello")
        with pytest.raises(RecordRefused):
            await server.pipeline.decide(event)
    assert await broken.closed() == CloseCode.INTERNAL_ERROR
    assert [frame["id"] for frame in sound.got("reply")] == ["m1"]
    await sound.leave()
