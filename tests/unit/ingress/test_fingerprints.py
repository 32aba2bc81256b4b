"""Fingerprints: whoever opens a session by its token is compared with whoever began it, and nothing more is kept."""

from typing import Any

import httpx
import orjson
import pytest
from structlog.typing import EventDict

from ingress.client_address import TrustedProxies
from ingress.errors import SecurityError
from ingress.fingerprints import UNKNOWN, Fingerprints
from schemas.fingerprint import fingerprint
from schemas.inbound import Message
from store.cached import SessionReads
from tests.unit.ingress.fakes import ALICE, MALLORY, Pipeline
from tests.unit.ingress.rest import bearer, client_of

PROXY = "10.0.0.1"
AS_ALICE = {"User-Agent": ALICE.user_agent}


def scope(peer: tuple[str, int] | None, *headers: tuple[str, str]) -> dict[str, Any]:
    return {"client": peer, "headers": [(name.encode(), value.encode()) for name, value in headers]}


async def begun(pipeline: Pipeline, session_id: str = "s1") -> None:
    """A session that Alice began."""
    hash = fingerprint(session_id, ALICE.address, ALICE.user_agent)
    await pipeline.decide(Message(id="m1", session_id=session_id, text="Hello", fingerprint_hash=hash))


async def stored_hash(pipeline: Pipeline, session_id: str) -> str | None:
    session = await pipeline.store.get(session_id)
    assert session is not None
    return session.fingerprint_hash


class Untouchable:
    """A store that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


async def test_off_nothing_is_made_read_or_told() -> None:
    store: SessionReads = Untouchable()
    fingerprints = Fingerprints("off", TrustedProxies(), store, Pipeline())
    client = fingerprints.client(scope(("192.0.2.1", 1), ("user-agent", "x")))
    assert client == UNKNOWN
    assert fingerprints.of("s1", client) is None
    await fingerprints.verify("s1", client)


async def test_strict_another_client_is_refused_counted_and_noted_without_its_address(logs: list[EventDict]) -> None:
    """X"""
    pipeline = Pipeline("strict")
    await begun(pipeline)
    await pipeline.fingerprints.verify("s1", ALICE)
    with pytest.raises(SecurityError) as raised:
        await pipeline.fingerprints.verify("s1", MALLORY)
    assert (raised.value.status, raised.value.code) == (403, "fingerprint_mismatch")
    assert pipeline.mismatches == ["strict"]
    assert [(entry["event"], entry["session_id"]) for entry in logs] == [("fingerprint_mismatch", "s1")]
    for secret in (ALICE.address, MALLORY.address, MALLORY.user_agent):
        assert secret not in f"{logs} {raised.value}"


async def test_lenient_another_client_is_counted_and_goes_on(logs: list[EventDict]) -> None:
    pipeline = Pipeline("lenient")
    await begun(pipeline)
    await pipeline.fingerprints.verify("s1", MALLORY)
    assert pipeline.mismatches == ["lenient"]
    assert [entry["log_level"] for entry in logs] == ["warning"]


async def test_while_nobody_knows_how_it_began_everybody_may_open_it() -> None:
    pipeline = Pipeline("strict")
    await pipeline.fingerprints.verify("s1", MALLORY)
    await pipeline.decide(Message(id="m1", session_id="s1", text="From another system"))
    await pipeline.fingerprints.verify("s1", MALLORY)
    assert pipeline.mismatches == []


async def test_a_client_is_its_address_behind_the_proxies_and_its_user_agent() -> None:
    fingerprints = Pipeline("strict", (PROXY,)).fingerprints
    # A header that comes twice is one list: the client wrote the first.
    forwarded = [("x-forwarded-for", "192.0.2.99"), ("x-forwarded-for", ALICE.address)]
    assert fingerprints.client(scope((PROXY, 1), *forwarded, ("user-agent", ALICE.user_agent))) == ALICE
    assert fingerprints.client(scope(None)) == UNKNOWN


async def open_by_token(client: httpx.AsyncClient, session_id: str, token: str) -> list[httpx.Response]:
    """Everything that REST does by token, the deletion last."""
    client.headers.update(bearer(token))
    session = f"/api/v1/sessions/{session_id}"
    return [
        await client.post("/api/v1/chat", json={"session_id": session_id, "text": "Hello"}),
        await client.get(session),
        await client.get(f"{session}/turns"),
        await client.patch(session, json={"user_id": "u1"}),
        await client.delete(session),
    ]


async def test_strict_nothing_of_rest_opens_for_another_client() -> None:
    """X"""
    pipeline = Pipeline("strict")
    await begun(pipeline)
    async with client_of(pipeline, address=MALLORY.address) as client:
        responses = await open_by_token(client, "s1", pipeline.tokens.issue("s1"))
    assert {(response.status_code, response.json()["error"]) for response in responses} == {
        (403, "fingerprint_mismatch")
    }
    assert pipeline.published == []
    async with client_of(pipeline) as client:
        client.headers.update(AS_ALICE)
        responses = await open_by_token(client, "s1", pipeline.tokens.issue("s1"))
    assert [response.status_code for response in responses] == [200, 200, 200, 200, 204]


async def test_behind_a_proxy_clients_are_told_apart_and_none_can_pretend() -> None:
    """X"""
    pipeline = Pipeline("strict", (PROXY,))
    async with client_of(pipeline, address=PROXY) as client:
        client.headers.update(AS_ALICE)
        by_alice = {"X-Forwarded-For": ALICE.address}
        begun = (await client.post("/api/v1/sessions", headers=by_alice)).json()
        session = f"/api/v1/sessions/{begun['session_id']}"
        for forwarded, status in [
            (ALICE.address, 200),
            (MALLORY.address, 403),
            (f"{ALICE.address}, {MALLORY.address}", 403),
        ]:
            headers = {"X-Forwarded-For": forwarded, **bearer(begun["token"])}
            assert (await client.get(session, headers=headers)).status_code == status, forwarded


async def test_the_event_that_begins_a_session_carries_its_client_s_fingerprint() -> None:
    pipeline = Pipeline("lenient")
    async with client_of(pipeline) as client:
        client.headers.update(AS_ALICE)
        made = (await client.post("/api/v1/sessions")).json()["session_id"]
        asked = (await client.post("/api/v1/chat", json={"text": "Hello"})).json()["session_id"]
        claimed = "order-7"
        await client.post("/api/v1/chat", json={"session_id": claimed, "text": "Hello"})
    for session_id in (made, asked, claimed):
        assert await stored_hash(pipeline, session_id) == fingerprint(session_id, ALICE.address, ALICE.user_agent)


async def test_a_session_keeps_its_first_fingerprint() -> None:
    """X: who came later never becomes the one that it began with."""
    pipeline = Pipeline("lenient")
    await begun(pipeline)
    async with client_of(pipeline, address=MALLORY.address) as client:
        message = {"session_id": "s1", "text": "Hello"}
        assert (
            await client.post("/api/v1/chat", json=message, headers=bearer(pipeline.tokens.issue("s1")))
        ).status_code == 200
    assert orjson.loads(pipeline.published[-1].value or b"")["fingerprint_hash"] is not None
    assert await stored_hash(pipeline, "s1") == fingerprint("s1", ALICE.address, ALICE.user_agent)


async def test_off_no_event_carries_a_fingerprint() -> None:
    pipeline = Pipeline()
    async with client_of(pipeline) as client:
        await client.post("/api/v1/sessions")
        await client.post("/api/v1/chat", json={"session_id": "order-7", "text": "Hello"})
    for record in pipeline.published:
        event = orjson.loads(record.value or b"")
        assert event.get("changes", event)["fingerprint_hash"] is None
