"""Who may open a session, from where, and what a token is worth."""

import asyncio
import base64
from typing import Any

import jwt
import orjson
import pytest

from ingress.errors import IngressError
from ingress.origins import OriginPolicy
from ingress.tokens import SessionTokens
from schemas.frames import ErrorCode
from schemas.identity import MINTED_PREFIX, is_session_id
from schemas.inbound import InboundEvent, Message
from schemas.publishing import BrokerUnavailable
from tests.unit.ingress.fakes import ALICE, SECRET, Pipeline

NOW = 1_767_323_045.0


def tokens(secret: str = SECRET, now: float = NOW) -> SessionTokens:
    return SessionTokens(secret, ttl_seconds=60, clock=lambda: now)


def refusal(token: str, now: float = NOW) -> ErrorCode:
    with pytest.raises(IngressError) as raised:
        tokens(now=now).verify(token)
    assert raised.value.status == 401
    return raised.value.code


def signed(claims: dict[str, Any], **kwargs: Any) -> str:
    return jwt.encode(claims, kwargs.pop("key", SECRET), **kwargs)


def test_a_token_opens_its_session_until_it_expires() -> None:
    token = tokens().issue("s1")
    assert tokens(now=NOW + 59).verify(token) == "s1"
    assert refusal(token, now=NOW + 60) == ErrorCode.TOKEN_EXPIRED


def test_a_foreign_token_is_invalid() -> None:
    assert refusal(tokens("f" * 32).issue("s1")) == ErrorCode.TOKEN_INVALID


def test_a_token_whose_content_was_changed_is_invalid() -> None:
    """X"""
    head, _, signature = tokens().issue("s1").split(".")
    claims = base64.urlsafe_b64encode(orjson.dumps({"sub": "s2", "exp": NOW + 60})).rstrip(b"=").decode()
    assert refusal(f"{head}.{claims}.{signature}") == ErrorCode.TOKEN_INVALID


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "é.ü.ß",
        signed({"sub": "s1", "exp": NOW + 60}, algorithm="none", key=None),
        signed({"sub": "s1", "exp": NOW + 60}, algorithm="HS512"),
        signed({"sub": "s1"}, algorithm="HS256"),
        signed({"exp": NOW + 60}, algorithm="HS256"),
        signed({"sub": 7, "exp": NOW + 60}, algorithm="HS256"),
    ],
)
def test_what_is_no_token_of_ours_is_invalid(token: str) -> None:
    assert refusal(token) == ErrorCode.TOKEN_INVALID


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"origin": "https://shop.example"}, True),
        ({"origin": "https://shop.example.evil.example"}, False),
        ({"origin": "http://shop.example"}, False),
        ({"origin": "https://shop.example:444"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "https://chat.example", "host": "chat.example"}, False),
    ],
)
def test_with_an_allowlist_only_its_exact_origins_may_connect(headers: dict[str, str], allowed: bool) -> None:
    assert OriginPolicy(frozenset({"https://shop.example"})).allows(headers) is allowed


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"host": "localhost:8000"}, True),
        ({"origin": "http://localhost:8000", "host": "localhost:8000"}, True),
        ({"origin": "https://localhost:8000", "host": "localhost:8000"}, True),
        ({"origin": "http://localhost:9000", "host": "localhost:8000"}, False),
        ({"origin": "null", "host": "localhost:8000"}, False),
        ({"origin": "http://"}, False),
        ({"origin": "http://", "host": ""}, False),
    ],
)
def test_without_one_only_our_own_pages_may_connect(headers: dict[str, str], allowed: bool) -> None:
    assert OriginPolicy().allows(headers) is allowed


async def refused(pipeline: Pipeline, session_id: str | None, token: str | None) -> IngressError:
    with pytest.raises(IngressError) as raised:
        await pipeline.access.grant(session_id, token, ALICE)
    return raised.value


async def test_a_new_session_gets_an_id_that_nobody_guesses_and_its_token() -> None:
    pipeline = Pipeline()
    one, two = [await pipeline.access.grant(None, None, ALICE) for _ in range(2)]
    assert one.session_id != two.session_id
    assert one.session_id.startswith(MINTED_PREFIX)
    assert is_session_id(one.session_id)
    assert pipeline.tokens.verify(one.token) == one.session_id
    assert pipeline.published == []


async def test_a_minted_id_needs_its_token_whether_or_not_it_was_used() -> None:
    """X"""
    pipeline = Pipeline()
    granted = await pipeline.access.grant(None, None, ALICE)
    for session_id in (granted.session_id, f"{MINTED_PREFIX}made-up"):
        assert (await refused(pipeline, session_id, None)).code == ErrorCode.TOKEN_REQUIRED
    assert (await pipeline.access.grant(granted.session_id, granted.token, ALICE)).session_id == granted.session_id


async def test_a_token_opens_no_other_session() -> None:
    """X"""
    pipeline = Pipeline()
    token = pipeline.tokens.issue("s1")
    assert (await refused(pipeline, "s2", token)).code == ErrorCode.TOKEN_INVALID
    assert (await pipeline.access.grant(None, token, ALICE)).session_id == "s1"


async def test_an_old_token_is_replaced_by_one_that_lasts_longer() -> None:
    pipeline = Pipeline()
    token = pipeline.tokens.issue("s1")
    pipeline.now += 3_000
    renewed = (await pipeline.access.grant("s1", token, ALICE)).token
    pipeline.now += 3_000
    assert pipeline.tokens.verify(renewed) == "s1"


async def test_the_first_to_open_an_unclaimed_session_gets_it() -> None:
    pipeline = Pipeline()
    granted = await pipeline.access.grant("order-7", None, ALICE)
    assert pipeline.tokens.verify(granted.token) == "order-7"
    assert (await refused(pipeline, "order-7", None)).code == ErrorCode.TOKEN_REQUIRED


async def test_of_two_who_claim_at_once_one_gets_it() -> None:
    """X: both see it unclaimed; the order of the partition decides."""
    pipeline = Pipeline()
    outcomes = await asyncio.gather(
        *(pipeline.access.grant("order-7", None, ALICE) for _ in range(5)), return_exceptions=True
    )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, IngressError)]
    assert len(refusals) == 4
    assert {refusal.code for refusal in refusals} == {ErrorCode.TOKEN_REQUIRED}


async def test_a_session_that_another_system_began_can_be_claimed() -> None:
    pipeline = Pipeline()
    await pipeline.decide(Message(id="m1", session_id="order-7", text="From elsewhere"))
    assert (await pipeline.access.grant("order-7", None, ALICE)).session_id == "order-7"


async def test_a_claim_that_nobody_answers_or_takes_can_be_tried_again() -> None:
    pipeline = Pipeline()
    pipeline.answers = False
    assert (await refused(pipeline, "order-7", None)).status == 503
    pipeline.failure = BrokerUnavailable("away")
    error = await refused(pipeline, "order-7", None)
    assert (error.status, error.retry_after_seconds) == (503, 2)
    assert pipeline.delivery.sessions == 0


async def test_a_fact_is_waited_for_from_before_the_event_is_published() -> None:
    """L: a worker may be quicker than the acknowledgement."""
    pipeline = Pipeline()
    seen: list[int] = []
    event = Message(id="m1", session_id="s1", text="Hi")

    def note(_: InboundEvent) -> None:
        seen.append(pipeline.delivery.sessions)

    pipeline.before_answer = note
    fact = await pipeline.facts.request(event, 1.0)
    assert fact is not None
    assert fact.inbound_id == "m1"
    assert seen == [1]
    assert pipeline.delivery.sessions == 0


async def test_a_repeated_request_gets_the_answer_that_was_given() -> None:
    """D"""
    pipeline = Pipeline()
    event = Message(id="m1", session_id="s1", text="Hi")
    first = await pipeline.facts.request(event, 1.0)
    assert await pipeline.facts.request(event, 1.0) == first
    assert len(pipeline.published) == 1


async def test_a_fact_that_is_late_is_none_and_nobody_waits_any_more() -> None:
    pipeline = Pipeline()
    pipeline.answers = False
    assert await pipeline.facts.request(Message(id="m1", session_id="s1", text="Hi"), 0.0) is None
    assert pipeline.accepted == 1
    assert pipeline.delivery.sessions == 0
