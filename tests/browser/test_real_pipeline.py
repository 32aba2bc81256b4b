"""The page against the real thing: an ingress and a worker that streams its answers, on Kafka and Redis."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.chat_page import ChatPage
from tests.shop import Shop

QUESTION = "How do I get my money back?"
ANSWERED_WITHIN_MS = 20_000


@pytest.fixture
def chat(paced_shop: Shop, context: BrowserContext) -> Iterator[ChatPage]:
    """A tab of its own on the real ingress."""
    chat = ChatPage(context.new_page(), paced_shop.ingresses[0].url)
    yield chat
    assert chat.complaints == []


def expect_answers(chat: ChatPage, count: int) -> None:
    expect(chat.answers).to_have_count(count, timeout=ANSWERED_WITHIN_MS)


def test_an_answer_streams_is_cited_and_its_source_opens(chat: ChatPage) -> None:
    chat.open()
    chat.write(QUESTION)
    partial = chat.log.locator(".partial")
    expect(partial).to_have_text(re.compile(r"\w+ \w+"))
    expect(chat.answers).to_have_count(0)
    expect(chat.page.get_by_role("button", name="Stop")).to_be_visible()
    expect_answers(chat, 1)
    expect(partial).to_be_hidden()
    chat.answers.get_by_role("button", name=re.compile("^Source 1: .*efund")).first.click()
    expect(chat.page.get_by_role("region", name=re.compile("^Source 1: "))).to_contain_text("30 days")


def test_a_reload_in_the_middle_of_an_answer_goes_on_and_shows_it_once(chat: ChatPage) -> None:
    chat.open()
    chat.write("How long does standard shipping take?")
    expect_answers(chat, 1)
    chat.write(QUESTION)
    expect(chat.log.locator(".partial:visible")).to_have_text(re.compile(r"\w+ \w+"))
    chat.reload()
    expect(chat.answers).to_have_count(1)
    expect(chat.writing.last).to_be_visible()
    expect_answers(chat, 2)
    expect(chat.answers.last).to_contain_text("30 days")
    expect(chat.questions).to_have_text(["How long does standard shipping take?", QUESTION])
    before = chat.log.inner_text()
    chat.reload()
    expect(chat.answers).to_have_count(2)
    assert chat.log.inner_text() == before


def test_stop_ends_the_answer_and_the_next_question_is_answered(chat: ChatPage) -> None:
    chat.open()
    chat.write(QUESTION)
    expect(chat.log.locator(".partial")).to_have_text(re.compile(r"\w+ \w+"))
    chat.page.get_by_role("button", name="Stop").click()
    expect(chat.log).to_contain_text("You stopped this answer.")
    chat.write("Which cards can I pay with?")
    expect_answers(chat, 1)
    expect(chat.answers.first).to_contain_text("Visa")
