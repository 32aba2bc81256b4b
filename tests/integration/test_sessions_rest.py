"""Sessions over REST on real servers: a session's whole life, and changes in the midst of messages."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.customers import ANSWER_WITHIN_S
from tests.processes import Process
from tests.shop import Shop
from tests.topic_records import assert_in_partition_order, assert_store_is_the_fold, read_log

PATCHES, MESSAGES = 20, 10


@asynccontextmanager
async def begun(ingress: Process, **given: Any) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A client that began a session and holds its token, and where the session is."""
    async with httpx.AsyncClient(base_url=ingress.url, timeout=ANSWER_WITHIN_S) as client:
        response = await client.post("/api/v1/sessions", json=given)
        assert response.status_code == 201, response.text
        client.headers["authorization"] = f"Bearer {response.json()['token']}"
        yield client, response.headers["location"]


async def ask(client: httpx.AsyncClient, session: str, text: str) -> None:
    message = {"session_id": session.rpartition("/")[2], "text": text, "wait": ANSWER_WITHIN_S}
    response = await client.post("/api/v1/chat", json=message)
    assert response.status_code == 200, response.text


async def test_a_session_lives_from_post_to_delete(shop: Shop) -> None:
    async with begun(shop.ingresses[0], user_id="u1", metadata={"plan": "free", "lang": "de"}) as (client, session):
        patched = await client.patch(session, json={"thread_id": "t1", "metadata": {"plan": "pro", "lang": None}})
        assert patched.status_code == 200, patched.text
        questions = [f"How do I get my money back? ({number})" for number in range(5)]
        for question in questions:
            await ask(client, session, question)

        seen = (await client.get(session)).json()
        assert (seen["user_id"], seen["thread_id"], seen["metadata"]) == ("u1", "t1", {"plan": "pro"})
        assert (seen["message_count"], seen["seq"]) == (5, 7)

        first = (await client.get(f"{session}/turns", params={"limit": 3})).json()
        second = (await client.get(f"{session}/turns", params={"limit": 3, "after": first["next"]})).json()
        assert [len(page["turns"]) for page in (first, second)] == [3, 2]
        assert [turn["message"]["text"] for page in (first, second) for turn in page["turns"]] == questions
        assert second["next"] is None

        assert (await client.delete(session)).status_code == 204
        for gone in (await client.get(session), await client.delete(session)):
            assert (gone.status_code, gone.json()["error"]) == (404, "not_found")
        assert (await client.get(f"{session}/turns")).json()["turns"] == []


async def test_changes_in_the_midst_of_messages_all_take_effect_in_the_order_of_the_partition(shop: Shop) -> None:
    """O, U and R: none is lost, whichever ingress took it."""
    async with (
        begun(shop.ingresses[0]) as (client, session),
        httpx.AsyncClient(base_url=shop.ingresses[1].url, headers=client.headers, timeout=ANSWER_WITHIN_S) as other,
    ):

        async def patch(by: httpx.AsyncClient, number: int) -> None:
            response = await by.patch(session, json={"metadata": {f"key-{number}": number}})
            assert response.status_code == 200, response.text
            # The session as it is after this very change.
            assert response.json()["metadata"][f"key-{number}"] == number

        both = (client, other)
        work = [patch(both[number % 2], number) for number in range(PATCHES)]
        work += [ask(both[number % 2], session, f"Do you ship abroad? ({number})") for number in range(MESSAGES)]
        random.shuffle(work)
        await asyncio.gather(*work)

        seen = (await client.get(session)).json()
        assert seen["message_count"] == MESSAGES
        assert seen["metadata"] == {f"key-{number}": number for number in range(PATCHES)}
        assert seen["seq"] == 1 + PATCHES + MESSAGES

    log = (await read_log(shop.pipeline)).of(seen["session_id"])
    assert len(log.replies) == seen["seq"]
    assert_in_partition_order(log)
    await assert_store_is_the_fold(shop.pipeline, log)
