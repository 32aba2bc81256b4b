"""Sessions over REST: every change is a command whose fact answers it, and only the token's holder gets anything."""

from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

import httpx
import pytest

from schemas.identity import MINTED_PREFIX
from schemas.inbound import Message, SessionDelete
from schemas.publishing import BrokerUnavailable
from schemas.session import RECENT_EVENTS, SessionData
from tests.unit.ingress.fakes import Pipeline
from tests.unit.ingress.rest import bearer, client_of

SESSIONS = "/api/v1/sessions"
S1 = f"{SESSIONS}/s1"
VISIBLE = {
    "session_id",
    "user_id",
    "thread_id",
    "message_count",
    "escalated",
    "metadata",
    "created_at",
    "updated_at",
    "last_activity",
    "epoch",
    "seq",
    "version",
}
HIDDEN = {"fingerprint_hash", "applied", "recent_ids", "request_id", "claimed", "ttl_seconds", "deleted"}


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
async def client(pipeline: Pipeline) -> AsyncIterator[httpx.AsyncClient]:
    """It holds the token of s1."""
    async with client_of(pipeline) as client:
        client.headers.update(bearer(pipeline.tokens.issue("s1")))
        yield client


async def said(pipeline: Pipeline, *texts: str) -> None:
    """Messages of s1, answered."""
    for text in texts:
        await pipeline.decide(Message(id=f"m-{text}", session_id="s1", text=text))


async def test_a_session_is_made_with_its_token(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    given = {"user_id": "u1", "thread_id": "t1", "metadata": {"plan": "pro"}}
    response = await client.post(SESSIONS, json=given)
    body = response.json()
    assert response.status_code == 201
    assert body["session_id"].startswith(MINTED_PREFIX)
    assert pipeline.tokens.verify(body["token"]) == body["session_id"]
    assert body["session"].items() >= given.items()
    assert (body["session"]["seq"], body["session"]["message_count"]) == (1, 0)
    seen = await client.get(response.headers["location"], headers=bearer(body["token"]))
    assert (seen.status_code, seen.json()) == (200, body["session"])
    assert seen.headers["etag"] == response.headers["etag"]


async def test_a_session_is_made_of_nothing_too(client: httpx.AsyncClient) -> None:
    for body in (b"", b"{}", b'{"user_id": null}'):
        response = await client.post(SESSIONS, content=body, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["session"]["metadata"]) == (201, {})


async def test_of_a_session_only_what_concerns_its_client_is_shown(
    client: httpx.AsyncClient, pipeline: Pipeline
) -> None:
    """X: whoever adds a field to the session decides here whether it is shown."""
    await said(pipeline, "one")
    body = (await client.get(S1)).json()
    assert body.keys() == VISIBLE
    assert {field.name for field in fields(SessionData)} == VISIBLE | HIDDEN
    assert body["last_activity"] == body["updated_at"]


async def test_before_the_first_message_there_is_no_last_activity(client: httpx.AsyncClient) -> None:
    assert (await client.patch(S1, json={"user_id": "u1"})).json()["last_activity"] is None


async def test_a_patch_changes_what_it_names_and_removes_what_is_null(client: httpx.AsyncClient) -> None:
    await client.patch(S1, json={"user_id": "u1", "metadata": {"plan": "pro", "lang": "de"}})
    response = await client.patch(S1, json={"thread_id": "t1", "metadata": {"lang": None, "theme": "dark"}})
    session = response.json()
    assert response.status_code == 200
    assert (session["user_id"], session["thread_id"]) == ("u1", "t1")
    assert session["metadata"] == {"plan": "pro", "theme": "dark"}
    assert session == (await client.get(S1)).json()


async def test_every_change_has_another_entity_tag(client: httpx.AsyncClient) -> None:
    tags = [(await client.patch(S1, json={"user_id": "u1"})).headers["etag"] for _ in range(3)]
    assert len(set(tags)) == 3
    assert (await client.get(S1)).headers["etag"] == tags[-1]


async def test_a_patch_that_can_not_take_effect_leaves_the_session_as_it_was(client: httpx.AsyncClient) -> None:
    before = (await client.patch(S1, json={"metadata": {"note": "x" * 3_000}})).json()
    response = await client.patch(S1, json={"metadata": {"another": "x" * 3_000}})
    assert (response.status_code, response.json()["error"]) == (422, "turn_failed")
    assert "metadata too large" in response.json()["message"]
    assert (await client.get(S1)).json()["metadata"] == before["metadata"]


async def test_a_deleted_session_is_gone_and_a_message_begins_it_anew(
    client: httpx.AsyncClient, pipeline: Pipeline
) -> None:
    await said(pipeline, "one")
    before = (await client.get(S1)).json()
    response = await client.delete(S1)
    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(S1)).status_code == 404
    assert (await client.get(f"{S1}/turns")).json()["turns"] == []
    await said(pipeline, "two")
    after = (await client.get(S1)).json()
    assert (after["message_count"], after["seq"]) == (1, 1)
    assert after["epoch"] > before["epoch"]


async def test_where_nothing_is_there_is_nothing_to_show_or_to_delete(
    client: httpx.AsyncClient, pipeline: Pipeline
) -> None:
    for response in (await client.get(S1), await client.delete(S1), await client.delete(S1), await client.get(S1)):
        assert (response.status_code, response.json()["error"]) == (404, "not_found")
    await said(pipeline, "one")
    await pipeline.decide(SessionDelete(id="d1", session_id="s1"))
    assert (await client.get(S1)).status_code == 404


async def test_a_fact_that_is_late_is_202_and_where_to_look(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    """L: Kafka has the command, so it will take effect."""
    pipeline.answers = False
    responses = [await client.post(SESSIONS), await client.patch(S1, json={"user_id": "u1"}), await client.delete(S1)]
    for response in responses:
        body = response.json()
        assert (response.status_code, body["status"]) == (202, "accepted")
        assert response.headers["location"] == body["location"] == f"{SESSIONS}/{body['session_id']}"
    assert pipeline.tokens.verify(responses[0].json()["token"]) == responses[0].json()["session_id"]
    assert len(pipeline.published) == 3
    assert pipeline.delivery.sessions == 0


async def test_what_kafka_does_not_take_was_not_accepted(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    """L"""
    pipeline.failure = BrokerUnavailable("away")
    for response in (
        await client.post(SESSIONS),
        await client.patch(S1, json={"user_id": "u1"}),
        await client.delete(S1),
    ):
        assert (response.status_code, response.json()["error"]) == (503, "unavailable")
        assert response.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", S1), ("PATCH", S1), ("DELETE", S1), ("GET", f"{S1}/turns"), ("PATCH", f"{S1}?a=b")]
)
async def test_nothing_opens_without_the_session_s_token(pipeline: Pipeline, method: str, path: str) -> None:
    """X"""
    await said(pipeline, "one")
    wrong: list[dict[str, str]] = [{}, bearer("x"), bearer(pipeline.tokens.issue("s2")), {"Authorization": "Basic x"}]
    async with client_of(pipeline) as client:
        for headers in wrong:
            response = await client.request(method, path, headers=headers, json={})
            assert response.status_code == 401
            assert response.json()["error"].startswith("token_")
    assert pipeline.published == []


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", SESSIONS, {"session_id": "mine"}, "session_id"),
        ("POST", SESSIONS, {"user_id": ""}, "user_id"),
        ("POST", SESSIONS, {"user_id": "x" * 129}, "user_id"),
        ("POST", SESSIONS, {"metadata": {"a": {"b": 1}}}, "metadata"),
        ("PATCH", S1, {"escalated": True}, "escalated"),
        ("PATCH", S1, {"claimed": False}, "claimed"),
        ("PATCH", S1, {"fingerprint_hash": "x"}, "fingerprint_hash"),
        ("PATCH", S1, {"user_id": None}, "user_id"),
        ("PATCH", S1, {"metadata": None}, "metadata"),
        ("PATCH", S1, {"metadata": {"a": "x" * 5_000}}, "metadata"),
        ("PATCH", S1, [], "body"),
        ("GET", f"{S1}/turns?limit=0", None, "limit"),
        ("GET", f"{S1}/turns?limit={RECENT_EVENTS + 1}", None, "limit"),
        ("GET", f"{S1}/turns?after=-1", None, "after"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_told_which(
    client: httpx.AsyncClient, pipeline: Pipeline, method: str, path: str, body: Any, field: str
) -> None:
    response = await client.request(method, path, json=body)
    assert (response.status_code, response.json()["error"]) == (422, "invalid_field")
    assert field in response.json()["message"]
    assert pipeline.published == []


async def pages(client: httpx.AsyncClient, limit: int) -> list[list[str]]:
    """The texts of s1's messages, page for page."""
    found: list[list[str]] = []
    after: int | None = 0
    while after is not None:
        body = (await client.get(f"{S1}/turns", params={"after": after, "limit": limit})).json()
        found.append([turn["message"]["text"] for turn in body["turns"]])
        after = body["next"]
    return found


async def test_turns_come_in_pages_without_a_gap_and_none_twice(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    texts = [f"text {number}" for number in range(7)]
    await said(pipeline, *texts[:3])
    # An event that is no turn takes a seq, but no place on a page.
    await client.patch(S1, json={"user_id": "u1"})
    await said(pipeline, *texts[3:])
    for limit in (1, 3, 6, 7, 50):
        found = await pages(client, limit)
        assert [text for page in found for text in page] == texts
        assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
        assert found[-1] != []


async def test_a_session_that_has_not_begun_has_no_turns_yet(client: httpx.AsyncClient) -> None:
    """Where a message that is still on its way told to look."""
    response = await client.get(f"{S1}/turns")
    assert (response.status_code, response.json()) == (200, {"session_id": "s1", "turns": [], "next": None})
