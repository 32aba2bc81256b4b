"""An answer while it is made: deltas, the reply that replaces them, stopping it."""

from playwright.sync_api import expect

from schemas.frames import (
    CancelFrame,
    CloseCode,
    DeltaFrame,
    ErrorCode,
    ErrorFrame,
    FeedbackFrame,
    MessageFrame,
    ReplyFrame,
    SessionFrame,
)
from tests.browser.chat_page import ChatPage
from tests.browser.fake_edge import EPOCH, FakeEdge, no_answer


def test_deltas_grow_an_answer_that_the_reply_replaces(chat: ChatPage, fake_edge: FakeEdge) -> None:
    fake_edge.answer = no_answer
    chat.open()
    chat.write("Hello?")
    (message,) = fake_edge.wait_for_frames(MessageFrame, 1)
    expect(chat.writing).to_be_visible()
    fake_edge.stream(message.id, "Good ", "mor", "ning")
    partial = chat.log.locator(".partial")
    expect(partial).to_have_text("Good morning")
    expect(partial).to_have_attribute("aria-live", "off")
    fake_edge.send(DeltaFrame(id=message.id, n=0, text="Hello "))
    fake_edge.send(DeltaFrame(id=message.id, n=2, text="lost its predecessor"))
    expect(partial).to_have_text("Hello")
    fake_edge.reply(message, "Hello and welcome.")
    expect(chat.answers).to_have_text(["Hello and welcome."])
    expect(chat.writing).to_be_hidden()
    fake_edge.stream(message.id, "late")
    fake_edge.send(fake_edge.history[0])
    fake_edge.send(ErrorFrame(code=ErrorCode.RATE_LIMITED, message="All of that has arrived.", retryable=True))
    expect(chat.page.get_by_text("All of that has arrived.")).to_be_visible()
    expect(chat.answers).to_have_text(["Hello and welcome."])
    expect(partial).to_be_hidden()


def test_stop_cancels_the_answer(chat: ChatPage, fake_edge: FakeEdge) -> None:
    fake_edge.answer = no_answer
    chat.open()
    chat.write("Tell me everything")
    (message,) = fake_edge.wait_for_frames(MessageFrame, 1)
    chat.page.get_by_role("button", name="Stop").click()
    (cancel,) = fake_edge.wait_for_frames(CancelFrame, 1)
    assert cancel.id == message.id
    cancelled = ErrorFrame(
        code=ErrorCode.CANCELLED, message="Cancelled.", retryable=False, id=message.id, epoch=EPOCH, seq=1
    )
    fake_edge.send(cancelled)
    expect(chat.log).to_contain_text("You stopped this answer.")
    expect(chat.composer).to_be_focused()


def test_a_refused_message_can_be_tried_again_under_its_id(chat: ChatPage, fake_edge: FakeEdge) -> None:
    fake_edge.acknowledging = False
    chat.open()
    chat.write("Hello?")
    (first,) = fake_edge.wait_for_frames(MessageFrame, 1)
    fake_edge.send(ErrorFrame(code=ErrorCode.UNAVAILABLE, message="Try again soon.", retryable=True, id=first.id))
    expect(chat.log).to_contain_text("Try again soon.")
    fake_edge.acknowledging = True
    chat.log.get_by_role("button", name="Try again").click()
    expect(chat.answers).to_have_count(1)
    assert [message.id for message in fake_edge.frames(MessageFrame)] == [first.id, first.id]


def test_feedback_is_given_and_withdrawn(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    chat.write("Hello?")
    helpful = chat.page.get_by_role("button", name="Helpful", exact=True)
    helpful.click()
    expect(helpful).to_have_attribute("aria-pressed", "true")
    helpful.click()
    expect(helpful).to_have_attribute("aria-pressed", "false")
    chat.page.get_by_role("button", name="Not helpful").click()
    given = fake_edge.wait_for_frames(FeedbackFrame, 3)
    assert [(feedback.seq, feedback.score) for feedback in given] == [(1, 1), (1, 0), (1, -1)]
    chat.reload()
    expect(chat.page.get_by_role("button", name="Not helpful")).to_have_attribute("aria-pressed", "true")


def test_another_window_and_a_person_are_shown_with_both_sides(chat: ChatPage, fake_edge: FakeEdge) -> None:
    fake_edge.answer = no_answer
    chat.open()
    fake_edge.send(
        _reply(1, "from-elsewhere", "Asked elsewhere", "Answered here", escalated=True),
        SessionFrame(epoch=EPOCH, seq=2, id="held", deleted=False, message="Is anybody there?"),
        _reply(3, "operator-1", None, "Hello, this is Ada.", actor="operator"),
    )
    expect(chat.questions).to_have_text(["Asked elsewhere", "Is anybody there?"])
    expect(chat.answers).to_have_text(["Answered here", "Hello, this is Ada."])
    expect(chat.log).to_contain_text("A person from our team was asked to help.")
    expect(chat.log).to_contain_text("Support team")


def test_a_deleted_conversation_is_cleared_and_left(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    chat.write("Hello?")
    expect(chat.answers).to_have_count(1)
    fake_edge.send(SessionFrame(epoch=EPOCH, seq=2, id="delete-1", deleted=True))
    expect(chat.page.get_by_text("This conversation was deleted.")).to_be_visible()
    expect(chat.questions).to_have_count(0)
    expect(chat.composer).to_be_disabled()
    fake_edge.history.clear()
    chat.page.get_by_role("button", name="Start a new conversation").click()
    chat.expect_status("Connected")
    chat.write("Hello again?")
    expect(chat.answers).to_have_count(1)


def test_a_server_that_asks_for_patience_is_resumed_without_a_double(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    chat.write("One")
    expect(chat.answers).to_have_count(1)
    for code in (CloseCode.TRY_AGAIN_LATER, CloseCode.SERVICE_RESTART):
        before = fake_edge.connections
        fake_edge.close(code)
        expect(chat.page.locator("#status:not([data-state=open])")).to_have_count(1)
        chat.expect_status("Connected")
        assert fake_edge.connections == before + 1
    chat.write("Two")
    expect(chat.answers).to_have_count(2)


def _reply(
    seq: int, id: str, message: str | None, text: str, *, escalated: bool | None = None, actor: str = "agent"
) -> ReplyFrame:
    return ReplyFrame(
        epoch=EPOCH, seq=seq, id=id, message=message, text=text, citations=[], escalated=escalated, actor=actor
    )
