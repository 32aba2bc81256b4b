"""A request that waits for its answer: which event is the answer, and what is said of one that can't be read."""

import asyncio

import orjson
import pytest

from ingress.errors import IngressError
from ingress.refusals import RecordRefused
from schemas.frames import CloseCode
from schemas.inbound import Message
from schemas.replies import ReplyEvent, TurnCompleted, encode_reply
from tests.polling import eventually
from tests.unit.ingress.fakes import Pipeline
from tests.unit.ingress.rest import bearer, client_of
from tests.unit.ingress.test_edge import Client, Server, until
from tests.unit.schemas.events import answered, failed

QUESTION = Message(id="m1", session_id="s1", text="Hi")


def of_version(version: int) -> bytes:
    return orjson.dumps({**orjson.loads(encode_reply(answered(1, inbound_id="m1"))), "schema_version": version})


def waiting() -> tuple[Pipeline, asyncio.Task[ReplyEvent | None]]:
    """A request that no worker answers."""
    pipeline = Pipeline()
    pipeline.answers = False
    return pipeline, asyncio.create_task(pipeline.facts.request(QUESTION, 5.0))


async def accepted(pipeline: Pipeline) -> None:
    async def check() -> bool:
        return pipeline.accepted == 1

    await eventually(check, "the message is accepted", 5.0)


async def test_an_answer_of_a_newer_schema_is_said_to_be_there_and_unreadable() -> None:
    pipeline, request = waiting()
    await accepted(pipeline)
    with pytest.raises(RecordRefused) as refusal:
        pipeline.delivery.reply(b"s1", of_version(99))
    assert refusal.value.reason == "newer_schema"
    with pytest.raises(IngressError) as error:
        await request
    assert (error.value.status, error.value.code) == (502, "answer_unreadable")
    assert error.value.retry_after_seconds
    assert pipeline.delivery.sessions == 0


async def test_an_invalid_event_is_no_answer_and_the_wait_goes_on() -> None:
    pipeline, request = waiting()
    await accepted(pipeline)
    odd = orjson.dumps({**orjson.loads(encode_reply(answered(1, inbound_id="m1"))), "version": "one"})
    with pytest.raises(RecordRefused) as refusal:
        pipeline.delivery.reply(b"s1", odd)
    assert refusal.value.reason == "invalid_event"
    assert not request.done()
    pipeline.delivery.reply(b"s1", encode_reply(answered(1, inbound_id="m1")))
    fact = await request
    assert isinstance(fact, TurnCompleted)


async def test_events_of_other_messages_are_not_looked_at_however_odd() -> None:
    pipeline, request = waiting()
    await accepted(pipeline)
    pipeline.delivery.reply(b"s1", of_version(99).replace(b"m1", b"m0"))
    pipeline.delivery.reply(b"s1", encode_reply(answered(2, inbound_id="m1")))
    assert await request is not None


async def test_an_earlier_failure_that_may_be_tried_again_is_not_the_answer_to_the_message_that_tries_it() -> None:
    """L"""
    pipeline = Pipeline()
    pipeline.fails_turns = True
    failure = await pipeline.facts.request(QUESTION, 5.0)
    assert failure is not None
    assert failure.type == "turn.failed"
    pipeline.fails_turns = False
    answer = await pipeline.facts.request(QUESTION, 5.0)
    assert answer is not None
    assert answer.type == "turn.completed"
    assert len(pipeline.published) == 2


async def test_an_earlier_failure_that_may_not_be_tried_again_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """D"""
    pipeline = Pipeline()

    async def stored(session_id: str, after_seq: int = 0) -> list[bytes]:
        return [encode_reply(failed(1, inbound_id="m1", redrivable=False, code="cancelled"))]

    monkeypatch.setattr(pipeline.store, "events", stored)
    fact = await pipeline.facts.request(QUESTION, 5.0)
    assert fact is not None
    assert fact.type == "turn.failed"
    assert pipeline.published == []


async def test_a_stored_answer_of_a_newer_schema_is_502_over_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline()

    async def stored(session_id: str, after_seq: int = 0) -> list[bytes]:
        return [of_version(99)]

    monkeypatch.setattr(pipeline.store, "events", stored)
    headers = bearer(pipeline.tokens.issue("s1"))
    async with client_of(pipeline) as client:
        body = {"text": "Hi", "id": "m1", "session_id": "s1"}
        for response in (
            await client.post("/api/v1/chat", json=body, headers=headers),
            await client.get("/api/v1/sessions/s1/turns", headers=headers),
        ):
            assert (response.status_code, response.json()["error"]) == (502, "answer_unreadable")
            assert response.headers["retry-after"]
    assert pipeline.published == []


async def test_a_socket_whose_claim_can_not_be_read_here_is_told_to_come_again() -> None:
    server = Server()
    server.pipeline.answers = False
    client = Client(server.edge)
    client.say(type="hello", session_id="order-7")
    await until(lambda: len(server.pipeline.published) == 1)
    claim = orjson.loads(server.pipeline.published[0].value or b"")["id"]
    event = {**orjson.loads(of_version(99)), "session_id": "order-7", "inbound_id": claim}
    with pytest.raises(RecordRefused):
        server.pipeline.delivery.reply(b"order-7", orjson.dumps(event))
    assert await client.closed() == CloseCode.TRY_AGAIN_LATER
    (error,) = client.got("error")
    assert (error["code"], error["retryable"]) == ("answer_unreadable", True)
