"""D at the edge of the system: whatever the connection does, a message is answered once on the screen."""

from playwright.sync_api import BrowserContext, expect

from schemas.frames import ErrorCode, Hello, MessageFrame
from tests.browser.chat_page import ChatPage
from tests.browser.fake_edge import EPOCH, FakeEdge, no_answer


def test_a_reload_in_the_middle_of_an_answer_still_gets_it_once(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    chat.write("First")
    expect(chat.answers).to_have_count(1)
    fake_edge.answer = no_answer
    chat.write("Second")
    message = fake_edge.wait_for_frames(MessageFrame, 2)[1]
    fake_edge.stream(message.id, "Half of ")
    expect(chat.log).to_contain_text("Half of")

    chat.reload()
    expect(chat.questions).to_have_text(["First", "Second"])
    expect(chat.writing.last).to_be_visible()
    hello = fake_edge.frames(Hello)[-1]
    assert hello.session_id is not None
    assert hello.token is not None
    assert hello.resume is not None
    assert hello.resume.seq == 0
    fake_edge.reply(message, "All of the answer.")
    expect(chat.answers).to_have_count(2)
    expect(chat.answers.last).to_have_text("All of the answer.")
    assert len(fake_edge.frames(MessageFrame)) == 2, "a message that Kafka has is not sent again"


def test_an_answer_that_came_during_the_reload_is_shown_once(chat: ChatPage, fake_edge: FakeEdge) -> None:
    fake_edge.answer = no_answer
    chat.open()
    chat.write("First")
    (message,) = fake_edge.wait_for_frames(MessageFrame, 1)
    expect(chat.writing).to_be_visible()
    chat.page.goto("about:blank")
    fake_edge.reply(message, "Answered meanwhile.")
    chat.open()
    expect(chat.answers).to_have_text(["Answered meanwhile."])
    expect(chat.questions).to_have_text(["First"])


def test_a_message_that_kafka_may_not_have_is_sent_again_under_its_id(chat: ChatPage, fake_edge: FakeEdge) -> None:
    fake_edge.acknowledging = False
    chat.open()
    chat.write("Did you get this?")
    (first,) = fake_edge.wait_for_frames(MessageFrame, 1)
    fake_edge.acknowledging = True
    chat.reload()
    expect(chat.answers).to_have_count(1)
    expect(chat.questions).to_have_text(["Did you get this?"])
    assert [message.id for message in fake_edge.frames(MessageFrame)] == [first.id, first.id]


def test_what_is_written_while_the_connection_is_cut_is_sent_once_when_it_is_back(
    chat: ChatPage, fake_edge: FakeEdge
) -> None:
    chat.open()
    chat.write("Before")
    expect(chat.answers).to_have_count(1)
    fake_edge.accepting = False
    fake_edge.cut()
    chat.expect_status("Reconnecting…")
    chat.write("Meanwhile")
    expect(chat.log).to_contain_text("Waiting for a connection.")
    expect(chat.page.get_by_text("The connection was lost.")).to_be_visible()
    fake_edge.accepting = True
    chat.page.get_by_role("button", name="Try now").click()
    chat.expect_status("Connected")
    expect(chat.answers).to_have_count(2)
    expect(chat.page.get_by_text("The connection was lost.")).to_be_hidden()
    assert [message.text for message in fake_edge.frames(MessageFrame)] == ["Before", "Meanwhile"]


def test_a_browser_without_network_says_so_and_comes_back_by_itself(
    chat: ChatPage, fake_edge: FakeEdge, context: BrowserContext
) -> None:
    chat.open()
    context.set_offline(True)
    chat.expect_status("Offline")
    chat.write("Written on the train")
    expect(chat.page.get_by_text("You are offline.")).to_be_visible()
    context.set_offline(False)
    chat.expect_status("Connected")
    expect(chat.answers).to_have_count(1)
    assert len(fake_edge.frames(MessageFrame)) == 1


def test_an_expired_token_offers_a_new_conversation_that_takes_the_unsent_along(
    chat: ChatPage, fake_edge: FakeEdge
) -> None:
    chat.open()
    chat.write("Before")
    expect(chat.answers).to_have_count(1)
    fake_edge.acknowledging = False
    chat.write("Not accepted yet")
    fake_edge.refuse_hello = ErrorCode.TOKEN_EXPIRED
    chat.reload()
    chat.expect_status("Not connected")
    expect(chat.page.get_by_text("This conversation has expired")).to_be_visible()
    expect(chat.composer).to_be_disabled()

    fake_edge.refuse_hello, fake_edge.acknowledging = None, True
    fake_edge.history.clear()
    chat.page.get_by_role("button", name="Start a new conversation").click()
    chat.expect_status("Connected")
    expect(chat.composer).to_be_focused()
    hello = fake_edge.frames(Hello)[-1]
    assert (hello.session_id, hello.token, hello.resume) == (None, None, None)
    expect(chat.questions).to_have_text(["Not accepted yet"])
    expect(chat.answers).to_have_count(1)


def test_history_that_the_server_no_longer_has_is_cleared_with_a_word(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    chat.write("Before")
    expect(chat.answers).to_have_count(1)
    fake_edge.history.clear()
    fake_edge.cut()
    expect(chat.page.get_by_text("Earlier messages of this conversation")).to_be_visible()
    expect(chat.questions).to_have_count(0)
    chat.write("After")
    expect(chat.questions).to_have_text(["After"])
    expect(chat.answers).to_have_count(1)


def test_an_epoch_that_began_with_the_first_turn_is_taken_over_without_a_loss(
    chat: ChatPage, fake_edge: FakeEdge
) -> None:
    chat.open()
    chat.write("First")
    expect(chat.answers).to_have_count(1)
    for count in (2, 3):
        fake_edge.cut()
        hellos = fake_edge.wait_for_frames(Hello, count)
        chat.write(f"Number {count}")
        expect(chat.answers).to_have_count(count)
    assert [(hello.resume.epoch, hello.resume.seq) for hello in hellos if hello.resume] == [
        (EPOCH, 1),
        (EPOCH, 2),
    ]
    expect(chat.questions).to_have_text(["First", "Number 2", "Number 3"])
    expect(chat.page.locator("#notice")).to_be_hidden()


def test_the_token_stays_in_this_tab(chat: ChatPage) -> None:
    chat.open()
    assert "token-1" in chat.storage()
    assert chat.page.evaluate("localStorage.length") == 0
    assert chat.page.evaluate("document.cookie") == ""
