"""Bad input gets a clear answer and nothing is lost: at the WebSocket and at REST."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from ingress.tokens import SessionTokens
from schemas.frames import MAX_FRAME_BYTES, CloseCode
from schemas.inbound import MAX_TEXT_CHARACTERS
from tests.customers import ANSWER_WITHIN_S, Frame, customer, message_id, open_socket
from tests.processes import Pipeline, Process

HOUR_S = 3_600


@asynccontextmanager
async def socket_to(ingress: Process) -> AsyncIterator[ClientConnection]:
    socket = await open_socket(ingress)
    try:
        yield socket
    finally:
        await socket.close()


async def receive(socket: ClientConnection) -> Frame:
    frame: Frame = orjson.loads(await asyncio.wait_for(socket.recv(), ANSWER_WITHIN_S))
    return frame


async def close_code(socket: ClientConnection) -> int | None:
    await asyncio.wait_for(socket.wait_closed(), ANSWER_WITHIN_S)
    return socket.close_code


def tokens(pipeline: Pipeline, *, age_seconds: float = 0, secret: str | None = None) -> SessionTokens:
    """Issues tokens as the pipeline's ingress did `age_seconds` ago."""
    return SessionTokens(secret or pipeline.token_secret, ttl_seconds=HOUR_S, clock=lambda: time.time() - age_seconds)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"type": "message", "id": "1", "text": ""}, "invalid_field"),
        ({"type": "message", "id": "1", "text": "  \n "}, "invalid_field"),
        ({"type": "message", "id": "1", "text": "x" * (MAX_TEXT_CHARACTERS + 1)}, "invalid_field"),
        ({"type": "message", "id": "1"}, "invalid_field"),
        ({"type": "message", "id": "", "text": "hello"}, "invalid_field"),
        ({"type": "message", "id": "1" * 129, "text": "hello"}, "invalid_field"),
        ({"type": "dance"}, "unknown_type"),
        ({"text": "hello"}, "unknown_type"),
        ({"type": "hello"}, "hello_repeated"),
        (["message"], "bad_json"),
    ],
)
async def test_a_bad_frame_is_refused_and_the_next_good_one_answered(
    quick_ingress: Process, frame: Any, code: str
) -> None:
    async with customer(quick_ingress) as alice:
        await alice.send(frame)
        error = await alice.get(lambda frame: frame["type"] == "error", code)
        assert error["code"] == code
        assert error["message"]
        assert error["retryable"] is False
        assert (await alice.ask("And now?"))["seq"] == 1


@pytest.mark.parametrize("data", ["not JSON", '{"type": "message"', b"\xff\xfe\x00", "\x00", "[" * 10_000])
async def test_what_is_no_json_is_refused_and_the_next_good_one_answered(
    quick_ingress: Process, data: str | bytes
) -> None:
    async with customer(quick_ingress) as alice:
        await alice.socket.send(data)
        error = await alice.get(lambda frame: frame["type"] == "error", "bad_json")
        assert error["code"] == "bad_json"
        assert (await alice.ask("And now?"))["seq"] == 1


async def test_a_lone_surrogate_is_refused_and_the_next_good_one_answered(quick_ingress: Process) -> None:
    async with customer(quick_ingress) as alice:
        await alice.socket.send('{"type": "message", "id": "1", "text": "\\ud800"}')
        assert (await alice.get(lambda frame: frame["type"] == "error", "an error"))["code"] == "bad_json"
        assert (await alice.ask("And now?"))["seq"] == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ('{"type": "message", "id": "1", "text": "too early"}', "hello_required"),
        ("not JSON", "bad_json"),
        ('{"type": "hello", "session_id": "no spaces"}', "invalid_field"),
        ('{"type": "hello", "resume": {"epoch": -1, "seq": 0}}', "invalid_field"),
    ],
)
async def test_without_a_good_hello_the_connection_ends(quick_ingress: Process, data: str, code: str) -> None:
    async with socket_to(quick_ingress) as socket:
        await socket.send(data)
        assert (await receive(socket))["code"] == code
        assert await close_code(socket) == CloseCode.PROTOCOL


async def test_a_token_of_another_session_opens_nothing(quick_pipeline: Pipeline, quick_ingress: Process) -> None:
    async with customer(quick_ingress) as alice, customer(quick_ingress) as mallory:
        await alice.ask("This is private.")
        for hello in (
            {"type": "hello", "session_id": alice.session_id, "token": mallory.token},
            {"type": "hello", "session_id": alice.session_id, "token": alice.token[:-3] + "AAA"},
            {
                "type": "hello",
                "session_id": alice.session_id,
                "token": tokens(quick_pipeline, secret="x" * 32).issue(alice.session_id),
            },
            {"type": "hello", "session_id": alice.session_id},
        ):
            async with socket_to(quick_ingress) as socket:
                await socket.send(orjson.dumps(hello).decode())
                assert (await receive(socket))["code"] == ("token_invalid" if "token" in hello else "token_required")
                assert await close_code(socket) == CloseCode.UNAUTHORIZED


async def test_an_expired_token_says_so(quick_pipeline: Pipeline, quick_ingress: Process) -> None:
    expired = tokens(quick_pipeline, age_seconds=HOUR_S + 1).issue("s-old")
    async with socket_to(quick_ingress) as socket:
        await socket.send(orjson.dumps({"type": "hello", "token": expired}).decode())
        assert (await receive(socket))["code"] == "token_expired"
        assert await close_code(socket) == CloseCode.UNAUTHORIZED
    fresh = tokens(quick_pipeline, age_seconds=HOUR_S - 60).issue("s-old")
    async with customer(quick_ingress, token=fresh) as alice:
        assert alice.session_id == "s-old"
        assert alice.token != fresh


async def test_who_opens_a_session_first_owns_it(quick_ingress: Process) -> None:
    session_id = f"shop:{message_id()}"
    async with customer(quick_ingress, session_id) as alice:
        async with socket_to(quick_ingress) as socket:
            await socket.send(orjson.dumps({"type": "hello", "session_id": session_id}).decode())
            assert (await receive(socket))["code"] == "token_required"
        async with customer(quick_ingress, session_id, alice.token) as second_window:
            assert second_window.session_id == session_id


async def test_an_oversize_frame_closes_the_socket_and_resume_goes_on(quick_ingress: Process) -> None:
    async with customer(quick_ingress) as alice:
        await alice.ask("One")
        # It may be closed while we are still sending.
        with suppress(ConnectionClosedError):
            await alice.say("x" * MAX_FRAME_BYTES)
        assert await alice.closed() == CloseCode.TOO_BIG
        again = await alice.rejoin(quick_ingress)
        assert again.welcome["recovered"]
        assert (await again.ask("Two"))["seq"] == 2
        await again.close()


async def test_a_foreign_origin_is_refused_before_the_handshake(quick_ingress: Process) -> None:
    for origin in ("https://evil.example", "http://shop.example", "https://shop.example.evil.example", "null"):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(quick_ingress.socket_url, origin=origin, proxy=None)  # type: ignore[arg-type]
        assert refusal.value.response.status_code == 403
    async with customer(quick_ingress, origin="https://shop.example") as alice:
        await alice.ask("Hello?")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"text": ""}, 422, "invalid_field"),
        ({"text": " "}, 422, "invalid_field"),
        ({"text": "x" * (MAX_TEXT_CHARACTERS + 1)}, 422, "invalid_field"),
        ({}, 422, "invalid_field"),
        ({"text": "hello", "colour": "red"}, 422, "invalid_field"),
        ({"text": "hello", "session_id": "no spaces"}, 422, "invalid_field"),
        ({"text": "hello", "wait": -1}, 422, "invalid_field"),
        ({"text": "hello", "metadata": {"deep": {"er": 1}}}, 422, "invalid_field"),
        ({"text": "hello", "metadata": {"long": "x" * 5_000}}, 422, "invalid_field"),
        ({"text": "hello", "attachments": [{"name": "a", "url": "http://insecure.example/a"}]}, 422, "invalid_field"),
        ({"text": "hello", "session_id": "s-made-up-by-a-client"}, 401, "token_required"),
        (b"not JSON", 422, "invalid_field"),
        (b"\xff\xfe", 422, "invalid_field"),
        (b'{"text": "\\ud800"}', 422, "invalid_field"),
    ],
)
async def test_a_bad_request_is_refused_in_words(
    quick_ingress: Process, body: dict[str, Any] | bytes, status: int, error: str
) -> None:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    async with httpx.AsyncClient(base_url=quick_ingress.url, timeout=ANSWER_WITHIN_S) as client:
        headers = {"content-type": "application/json", "x-request-id": "my-request"}
        response = await client.post("/api/v1/chat", content=content, headers=headers)
        assert (response.status_code, response.json()["error"]) == (status, error), response.text
        assert response.json().keys() == {"error", "message", "request_id", "support"}
        assert response.json()["request_id"] == response.headers["x-request-id"] == "my-request"
        good = await client.post("/api/v1/chat", json={"text": "And now?"})
        assert good.status_code == 200, good.text
        assert good.json()["reply"]["text"]


async def test_rest_opens_nothing_without_the_right_token(quick_pipeline: Pipeline, quick_ingress: Process) -> None:
    async with httpx.AsyncClient(base_url=quick_ingress.url, timeout=ANSWER_WITHIN_S) as client:
        alice = (await client.post("/api/v1/chat", json={"text": "This is private."})).json()
        turns = f"/api/v1/sessions/{alice['session_id']}/turns"
        other = tokens(quick_pipeline).issue("s-other")
        old = tokens(quick_pipeline, age_seconds=HOUR_S + 1).issue(alice["session_id"])
        for authorization, error in (
            (None, "token_required"),
            (f"Bearer {other}", "token_invalid"),
            (f"Bearer {old}", "token_expired"),
            ("Basic YTpi", "token_invalid"),
            ("Bearer", "token_invalid"),
            ("Bearer é".encode("latin-1"), "token_invalid"),
        ):
            headers = {"authorization": authorization} if authorization else {}
            seen = await client.get(turns, headers=headers)  # type: ignore[arg-type]  # bytes are allowed
            assert (seen.status_code, seen.json()["error"]) == (401, error)
            said = await client.post(
                "/api/v1/chat",
                json={"text": "hi", "session_id": alice["session_id"]},
                headers=headers,  # type: ignore[arg-type]
            )
            assert (said.status_code, said.json()["error"]) == (401, error)
        mine = await client.get(turns, headers={"authorization": f"Bearer {alice['token']}"})
        assert [turn["message"]["text"] for turn in mine.json()["turns"]] == ["This is private."]


async def test_what_is_not_there_is_404_in_the_same_form(quick_ingress: Process) -> None:
    async with httpx.AsyncClient(base_url=quick_ingress.url) as client:
        for path in ("/api/v1/nothing", "/docs", "/openapi.json", "/chat/static/../tokens.py", "/chat/static/none.js"):
            response = await client.get(path)
            assert response.status_code == 404, path
            assert response.headers["x-request-id"]
        assert (await client.get("/api/v1/nothing")).json().keys() == {"error", "message", "request_id", "support"}
