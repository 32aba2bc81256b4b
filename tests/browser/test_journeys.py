"""What a customer does, against any edge that answers questions about refunds."""

import re

from playwright.sync_api import expect

from tests.browser.chat_page import ChatPage

QUESTION = "How do I get my money back?"


def test_a_first_question_gets_an_answer_whose_source_opens_and_closes_by_keyboard(chat: ChatPage) -> None:
    chat.open()
    expect(chat.page.get_by_role("heading", name="How can we help?")).to_be_visible()
    expect(chat.composer).to_be_focused()
    chat.page.keyboard.type(QUESTION)
    chat.page.keyboard.press("Enter")
    expect(chat.questions).to_have_text([QUESTION])
    expect(chat.answers).to_have_count(1)
    expect(chat.page.get_by_role("heading", name="How can we help?")).to_be_hidden()

    reference = chat.answers.get_by_role("button", name=re.compile("^Source 1: .*efund")).first
    reference.focus()
    chat.page.keyboard.press("Enter")
    source = chat.page.get_by_role("region", name=re.compile("^Source 1: "))
    expect(source).to_be_focused()
    expect(source).to_contain_text("30 days")
    expect(reference).to_have_attribute("aria-expanded", "true")
    chat.page.keyboard.press("Escape")
    expect(source).to_be_hidden()
    expect(reference).to_be_focused()


def test_a_suggestion_is_asked_with_one_click(chat: ChatPage) -> None:
    chat.open()
    suggestion = chat.page.get_by_role("button", name="How do I get a refund?")
    suggestion.click()
    expect(chat.questions).to_have_text(["How do I get a refund?"])
    expect(chat.answers).to_have_count(1)
    expect(chat.composer).to_be_focused()


def test_a_reload_shows_the_conversation_again_in_order(chat: ChatPage) -> None:
    chat.open()
    for number, question in enumerate((QUESTION, "How long do refunds take?"), start=1):
        chat.write(question)
        expect(chat.answers).to_have_count(number)
    before = chat.log.inner_text()
    chat.reload()
    expect(chat.answers).to_have_count(2)
    assert chat.log.inner_text() == before


def test_another_tab_begins_its_own_conversation(chat: ChatPage) -> None:
    chat.open()
    chat.write(QUESTION)
    expect(chat.answers).to_have_count(1)
    other = ChatPage(chat.page.context.new_page(), chat.base_url)
    other.open()
    expect(other.page.get_by_role("heading", name="How can we help?")).to_be_visible()
    expect(other.questions).to_have_count(0)
    assert other.complaints == []


def test_a_phone_shows_all_without_scrolling_sideways(chat: ChatPage) -> None:
    chat.page.set_viewport_size({"width": 320, "height": 568})
    chat.open()
    assert _overflow(chat) == 0
    chat.write("w" * 300)
    expect(chat.answers).to_have_count(1)
    chat.answers.get_by_role("button").first.click()
    for width, height in ((320, 568), (390, 844)):
        chat.page.set_viewport_size({"width": width, "height": height})
        assert _overflow(chat) == 0


def _overflow(chat: ChatPage) -> int:
    """By how many pixels anything is wider than its place."""
    wider: int = chat.page.evaluate(
        """() => Math.max(...["html", "body", "#conversation", "#log"].map((name) => {
          const element = document.querySelector(name);
          return element.scrollWidth - element.clientWidth;
        }))"""
    )
    return wider
