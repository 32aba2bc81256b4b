"""Writing a message: keys, input methods, the limit, the typing hint."""

from playwright.sync_api import expect

from schemas.frames import MessageFrame, TypingFrame
from tests.browser.chat_page import ChatPage
from tests.browser.fake_edge import FakeEdge


def test_shift_enter_breaks_the_line_and_the_box_grows(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    height = chat.composer.evaluate("(box) => box.clientHeight")
    for key in "one", "two", "three":
        chat.page.keyboard.type(key)
        chat.page.keyboard.press("Shift+Enter")
    assert chat.composer.evaluate("(box) => box.clientHeight") > height
    chat.page.keyboard.press("Enter")
    (message,) = fake_edge.wait_for_frames(MessageFrame, 1)
    assert message.text == "one\ntwo\nthree"
    assert chat.composer.evaluate("(box) => box.clientHeight") == height


def test_enter_that_picks_a_candidate_of_an_input_method_does_not_send(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    chat.composer.fill("へんかん")
    for init in ({"isComposing": True}, {"keyCode": 229}):
        chat.composer.evaluate(
            "(box, init) => box.dispatchEvent(new KeyboardEvent('keydown', init))",
            {"key": "Enter", "bubbles": True, **init},
        )
    expect(chat.composer).to_have_value("へんかん")
    chat.composer.press("Enter")
    assert [message.text for message in fake_edge.wait_for_frames(MessageFrame, 1)] == ["へんかん"]


def test_the_limit_counts_characters_as_the_server_does(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    counter = chat.page.locator("#counter")
    chat.composer.fill("a" * 7_499)
    expect(counter).to_be_hidden()
    chat.composer.fill("😀" * 7_990)
    expect(counter).to_have_text("10 characters left")
    chat.composer.fill("😀" * 8_001)
    expect(counter).to_have_text("1 characters too long")
    expect(chat.page.get_by_role("button", name="Send")).to_be_disabled()
    chat.composer.press("Enter")
    chat.composer.fill("😀" * 8_000)
    chat.composer.press("Enter")
    assert [len(message.text) for message in fake_edge.wait_for_frames(MessageFrame, 1)] == [8_000]
    expect(chat.answers).to_have_count(1)


def test_blank_text_is_not_sent_and_typing_is_told_at_most_once_in_a_while(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    chat.page.keyboard.type("   ")
    chat.page.keyboard.press("Enter")
    chat.page.keyboard.type("Hello there")
    chat.page.keyboard.press("Enter")
    expect(chat.answers).to_have_count(1)
    assert [message.text for message in fake_edge.frames(MessageFrame)] == ["Hello there"]
    assert len(fake_edge.frames(TypingFrame)) == 1
