"""The ingress over HTTP: what every response carries, how errors look, and what never leaks."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from schemas.publishing import BrokerUnavailable, RecordTooLarge
from store.errors import StoreUnavailable
from tests.unit.ingress.fakes import Pipeline
from tests.unit.ingress.rest import bearer, client_of


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
async def client(pipeline: Pipeline) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(pipeline) as client:
        yield client


async def test_a_question_is_answered_in_one_request(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    response = await client.post("/api/v1/chat", json={"text": "Hello", "id": "m1"})
    body = response.json()
    assert response.status_code == 200
    assert (body["status"], body["reply"]["text"], body["seq"]) == ("answered", "Answer to Hello", 1)
    assert pipeline.tokens.verify(body["token"]) == body["session_id"]
    turns = await client.get(f"/api/v1/sessions/{body['session_id']}/turns", headers=bearer(body["token"]))
    assert [turn["message"]["text"] for turn in turns.json()["turns"]] == ["Hello"]


async def test_an_answer_that_takes_too_long_is_202_and_where_to_look(
    client: httpx.AsyncClient, pipeline: Pipeline
) -> None:
    pipeline.answers = False
    response = await client.post("/api/v1/chat", json={"text": "Hello", "wait": 0})
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/v1/sessions/{response.json()['session_id']}/turns"


async def test_a_repeated_request_gets_the_same_answer(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    """D"""
    first = (await client.post("/api/v1/chat", json={"text": "Hello", "id": "m1"})).json()
    body = {"text": "Hello", "id": "m1", "session_id": first["session_id"]}
    second = (await client.post("/api/v1/chat", json=body, headers=bearer(first["token"]))).json()
    assert second["reply"] == first["reply"]
    assert len(pipeline.published) == 1


async def test_turns_are_shown_to_who_has_the_session_s_token(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    """X"""
    url = "/api/v1/sessions/s1/turns"
    for headers in ({}, bearer("x"), bearer(pipeline.tokens.issue("s2")), {"Authorization": "Basic x"}):
        response = await client.get(url, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"].startswith("token_")


async def test_a_turn_that_failed_is_an_error(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    pipeline.fails_turns = True
    response = await client.post("/api/v1/chat", json={"text": "Hello"})
    assert (response.status_code, response.json()["error"]) == (422, "turn_failed")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [(BrokerUnavailable("broker-7.internal is away"), 503, "unavailable"), (RecordTooLarge("big"), 413, "too_large")],
)
async def test_what_kafka_does_not_take_was_not_accepted(
    client: httpx.AsyncClient, pipeline: Pipeline, failure: Exception, status: int, code: str
) -> None:
    """L"""
    pipeline.failure = failure
    response = await client.post("/api/v1/chat", json={"text": "Hello"})
    assert (response.status_code, response.json()["error"]) == (status, code)
    assert ("retry-after" in response.headers) == (status == 503)
    assert "internal" not in response.text
    assert pipeline.accepted == 0


async def test_a_store_that_is_away_is_503(
    client: httpx.AsyncClient, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("redis-7.internal is away")

    monkeypatch.setattr(pipeline.store, "events", away)
    response = await client.post("/api/v1/chat", json={"text": "Hello"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert "internal" not in response.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": " "}, "text"),
        ({"text": "x" * 8_001}, "text"),
        ({"text": "x", "txet": "y"}, "txet"),
        ({"text": "x", "wait": 61}, "wait"),
        ({"text": "x", "session_id": "a b"}, "session_id"),
        ({"text": "x", "metadata": {"a": {"b": 1}}}, "metadata"),
        ({"text": "x", "attachments": [{"name": "x", "url": "http://a"}]}, "attachments"),
        ({"text": "x", "metadata": {"a": "x" * 5_000}}, "metadata"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_told_which(
    client: httpx.AsyncClient, pipeline: Pipeline, body: dict[str, object], field: str
) -> None:
    response = await client.post("/api/v1/chat", json=body)
    assert (response.status_code, response.json()["error"]) == (422, "invalid_field")
    assert field in response.json()["message"]
    assert pipeline.published == []


@pytest.mark.parametrize("number", ["1" + "0" * 30, "NaN", "Infinity"])
async def test_a_number_that_json_or_kafka_cannot_carry_is_refused(client: httpx.AsyncClient, number: str) -> None:
    body = f'{{"text": "x", "metadata": {{"a": {number}}}}}'
    response = await client.post("/api/v1/chat", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    response = await client.post("/api/v1/chat", content=content, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500
    assert set(response.json()) == {"error", "message", "request_id", "support"}


async def test_every_response_has_a_request_id_its_time_and_the_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/", "/health", "/metrics", "/chat", "/chat/static/main.js", "/nowhere", "/api/v1/chat"):
        headers = (await client.get(path)).headers
        assert re.fullmatch(r"[0-9a-f-]{36}", headers["x-request-id"])
        assert float(headers["x-process-time"]) >= 0
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("given", "kept"), [("req-7.A_b", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("<i>", False)]
)
async def test_a_sane_request_id_is_kept_and_any_other_replaced(
    client: httpx.AsyncClient, given: str, kept: bool
) -> None:
    response = await client.get("/nowhere", headers={"X-Request-ID": given})
    assert (response.headers["x-request-id"] == given) is kept
    assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_errors_have_one_shape(client: httpx.AsyncClient) -> None:
    for response in (await client.get("/nowhere"), await client.delete("/api/v1/chat"), await client.get("/docs")):
        assert response.json().keys() == {"error", "message", "request_id", "support"}
    assert (await client.get("/docs")).status_code == 404


async def test_in_production_nothing_of_an_exception_leaks(pipeline: Pipeline) -> None:
    async with client_of(pipeline, broken=RuntimeError("CANARY")) as client:
        response = await client.get("/")
        assert response.status_code == 500
        assert "CANARY" not in response.text
        assert response.json()["error"] == "internal_error"


async def test_an_unexpected_error_carries_the_headers_of_every_response(pipeline: Pipeline) -> None:
    async with client_of(pipeline, broken=RuntimeError("broken")) as client:
        response = await client.get("/", headers={"X-Request-ID": "req-7"})
        assert response.json()["request_id"] == "req-7"
        assert response.headers["x-request-id"] == "req-7"
        assert "x-process-time" in response.headers


async def test_in_debug_an_exception_is_shown_and_the_documentation_served(pipeline: Pipeline) -> None:
    async with client_of(pipeline, debug=True, broken=RuntimeError("CANARY")) as client:
        assert "CANARY" in (await client.get("/")).text
        assert (await client.get("/docs")).status_code == 200


async def test_readiness_follows_its_checks_and_liveness_does_not(pipeline: Pipeline) -> None:
    async with client_of(pipeline) as client:
        assert (await client.get("/health/ready")).status_code == 200
    async with client_of(pipeline, broken=BrokerUnavailable("No Kafka broker answers.")) as client:
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["checks"]) == (503, {"kafka": "No Kafka broker answers."})
        assert (await client.get("/health/live")).status_code == 200


async def test_the_page_may_load_nothing_from_elsewhere_and_run_nothing_inline(client: httpx.AsyncClient) -> None:
    """X: what a model or another customer wrote can't become a script."""
    for path in ("/chat", "/chat/static/main.js", "/chat/static/page.css"):
        response = await client.get(path)
        assert response.status_code == 200
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in response.headers["content-security-policy"]
    page = (await client.get("/chat")).text
    assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>|\son\w+=|\sstyle=|https?://", page)


async def test_static_files_stay_in_their_folder(client: httpx.AsyncClient) -> None:
    for path in ("/chat/static/../page.py", "/chat/static/%2e%2e/page.py", "/chat/static//etc/passwd"):
        assert (await client.get(path)).status_code == 404


async def test_only_allowed_origins_may_read_responses(pipeline: Pipeline) -> None:
    async with client_of(pipeline, allowed=frozenset({"https://shop.example"})) as client:
        for origin, allowed in [("https://shop.example", True), ("https://evil.example", False)]:
            response = await client.get("/", headers={"Origin": origin})
            assert ("access-control-allow-origin" in response.headers) is allowed


async def test_requests_of_many_sessions_do_not_mix(client: httpx.AsyncClient) -> None:
    """X"""
    texts = [f"CANARY-{n}." for n in range(50)]
    responses = await asyncio.gather(*(client.post("/api/v1/chat", json={"text": text, "id": "m1"}) for text in texts))
    for text, response in zip(texts, responses, strict=True):
        assert response.json()["reply"]["text"] == f"Answer to {text}"
        assert response.text.count("CANARY") == response.text.count(text)
