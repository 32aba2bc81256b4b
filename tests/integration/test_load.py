"""Two ingress and two worker processes under 200 customers: L, D, O, U, R and X hold."""

import asyncio
import csv
import random
import re
import secrets
from pathlib import Path

import httpx
import pytest

from tests.customers import Customer
from tests.processes import Process
from tests.shop import Shop
from tests.topic_records import (
    assert_answered_once,
    assert_in_partition_order,
    assert_store_is_the_fold,
    read_log,
)

CUSTOMERS, MESSAGES = 200, 20
BANKING77 = Path(__file__).parents[1] / "data" / "banking77" / "train.csv"


class Conversation:
    """One customer's questions, each with a word that only this session knows."""

    def __init__(self, texts: list[str]) -> None:
        self.canary = f"#{secrets.token_hex(5)}"
        self.texts = [f"{text} {self.canary}" for text in texts]
        self.ids = [f"{self.canary}-{number}" for number in range(1, len(texts) + 1)]
        self.customer: Customer

    async def hold(self, ingress: Process) -> None:
        """Asks everything at the pace of the answers, two questions ahead of them."""
        self.customer = await Customer.join(ingress)
        for number, (id, text) in enumerate(zip(self.ids, self.texts, strict=True)):
            if number >= 2:
                await self._answer_to(self.ids[number - 2])
            await self.customer.say(text, id)
        await self._answer_to(self.ids[-1])
        await self.customer.close()

    async def _answer_to(self, id: str) -> None:
        await self.customer.get(lambda frame: frame["type"] == "reply" and frame["id"] == id, id, within_s=120)


def questions(count: int, rng: random.Random) -> list[str]:
    with BANKING77.open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    return rng.sample(texts, count)


async def test_200_customers_get_every_answer_once_in_order_and_nobody_elses(shop: Shop) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    texts = questions(CUSTOMERS * MESSAGES, random.Random(seed))
    conversations = [Conversation(texts[n * MESSAGES : (n + 1) * MESSAGES]) for n in range(CUSTOMERS)]
    await asyncio.gather(
        *(
            conversation.hold(shop.ingresses[number % len(shop.ingresses)])
            for number, conversation in enumerate(conversations)
        )
    )

    canaries = {conversation.canary for conversation in conversations}
    for conversation in conversations:
        customer = conversation.customer
        replies = customer.of_type("reply")
        assert not customer.of_type("error")
        assert [frame["id"] for frame in customer.of_type("accepted")] == conversation.ids
        assert [frame["id"] for frame in replies] == conversation.ids, "D, O: once each, in order"
        assert [frame["message"] for frame in replies] == conversation.texts, "X"
        assert [frame["seq"] for frame in replies] == list(range(1, MESSAGES + 1))
        assert_only(conversation.canary, str(customer.frames), canaries)

    log = await read_log(shop.pipeline)
    ours = {conversation.customer.session_id: conversation for conversation in conversations}
    for record, event in log.replies:
        if event.session_id in ours:
            assert_only(ours[event.session_id].canary, record.value.decode(), canaries)
    assert_answered_once(log, [id for conversation in conversations for id in conversation.ids])
    assert_in_partition_order(log)
    await assert_store_is_the_fold(shop.pipeline, log)
    assert_all_took_part(shop)


def assert_only(canary: str, text: str, canaries: set[str]) -> None:
    """X: of all sessions' words, the text has just this one's."""
    found = set(re.findall(r"#[0-9a-f]{10}", text)) & canaries
    assert found == {canary}, f"X: {canary} among {found}"


def assert_all_took_part(shop: Shop) -> None:
    """Without this the rest would prove nothing about several processes."""
    for worker in shop.workers:
        turns = worker.metric("supportstream_turn_seconds_count", outcome="turn.completed")
        assert turns > CUSTOMERS * MESSAGES * 0.1, f"{worker.server.name} answered only {turns:g}"
    for ingress in shop.ingresses:
        accepted = ingress.metric("supportstream_inbound_accepted_total")
        assert accepted >= CUSTOMERS * MESSAGES * 0.4, f"{ingress.server.name} took only {accepted:g}"


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/metrics", "/chat"])
async def test_every_ingress_answers_for_itself(shop: Shop, path: str) -> None:
    async with httpx.AsyncClient() as client:
        for ingress in shop.ingresses:
            response = await client.get(ingress.url + path)
            assert response.status_code == 200
            assert response.headers["x-request-id"]
            assert float(response.headers["x-process-time"]) >= 0
