"""WebSocket frames: what a client may say and what its socket shows of a reply event."""

from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidFrame
from schemas.frames import (
    MAX_FRAME_BYTES,
    CancelFrame,
    ErrorCode,
    ErrorFrame,
    FeedbackFrame,
    Hello,
    MessageFrame,
    Position,
    ReplyFrame,
    SequencedFrame,
    SessionFrame,
    TypingFrame,
    decode_client_frame,
    encode_frame,
    frame_of,
)
from schemas.inbound import Changes
from schemas.replies import ReplyEvent, encode_reply
from tests.unit.schemas.events import answered, conversations, deleted, failed, updated


def shown_of(event: ReplyEvent) -> SequencedFrame:
    return frame_of(orjson.loads(encode_reply(event)))


@pytest.mark.parametrize(
    ("data", "frame"),
    [
        ('{"type": "hello"}', Hello()),
        ('{"type": "hello", "session_id": "s1", "token": "t", "resume": {"epoch": 1, "seq": 2}}',
         Hello(session_id="s1", token="t", resume=Position(epoch=1, seq=2))),
        ('{"type": "message", "id": "m1", "text": "Hi", "new_field": 1}', MessageFrame(id="m1", text="Hi")),
        (b'{"type": "cancel", "id": "m1"}', CancelFrame(id="m1")),
        ('{"type": "feedback", "seq": 3, "score": -1}', FeedbackFrame(seq=3, score=-1)),
        ('{"type": "typing"}', TypingFrame()),
    ],
)  # fmt: skip
def test_each_client_frame_is_understood(data: str | bytes, frame: object) -> None:
    assert decode_client_frame(data) == frame


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("", ErrorCode.BAD_JSON),
        ("{", ErrorCode.BAD_JSON),
        ("[]", ErrorCode.BAD_JSON),
        (b"\xff", ErrorCode.BAD_JSON),
        ("{}", ErrorCode.UNKNOWN_TYPE),
        ('{"type": "welcome"}', ErrorCode.UNKNOWN_TYPE),
        ('{"type": ["hello"]}', ErrorCode.UNKNOWN_TYPE),
        ('{"type": "message", "id": "m1"}', ErrorCode.INVALID_FIELD),
        ('{"type": "message", "id": "", "text": "x"}', ErrorCode.INVALID_FIELD),
        ('{"type": "message", "id": "m1", "text": " "}', ErrorCode.INVALID_FIELD),
        ('{"type": "message", "id": "m1", "text": "' + "x" * 8_001 + '"}', ErrorCode.INVALID_FIELD),
        ('{"type": "hello", "session_id": "a b"}', ErrorCode.INVALID_FIELD),
        ('{"type": "hello", "resume": {"epoch": -1, "seq": 0}}', ErrorCode.INVALID_FIELD),
        ('{"type": "feedback", "seq": 0, "score": 0}', ErrorCode.INVALID_FIELD),
        ('{"type": "typing", "pad": "' + "x" * MAX_FRAME_BYTES + '"}', ErrorCode.TOO_LARGE),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_its_code(data: str | bytes, code: ErrorCode) -> None:
    with pytest.raises(InvalidFrame) as raised:
        decode_client_frame(data)
    assert raised.value.code == code


@given(st.text(st.characters(codec="utf-8")) | st.binary())
def test_arbitrary_frames_never_raise_anything_but_invalid_frame(data: str | bytes) -> None:
    with suppress(InvalidFrame):
        decode_client_frame(data)


def test_a_reply_shows_both_sides_and_its_place() -> None:
    frame = shown_of(answered(4, text="Where is it?", changes=Changes(escalated=True)))
    assert isinstance(frame, ReplyFrame)
    assert (frame.epoch, frame.seq, frame.id) == (1_000, 4, "m4")
    assert (frame.message, frame.text, frame.escalated) == ("Where is it?", "Answer to m4.", True)


def test_a_failure_is_an_error_frame_with_its_place_and_a_cancelled_turn_says_so() -> None:
    broken = shown_of(failed(2, inbound_id="m2"))
    assert isinstance(broken, ErrorFrame)
    assert (broken.code, broken.id, broken.seq) == (ErrorCode.TURN_FAILED, "m2", 2)
    cancelled = shown_of(failed(2, inbound_id="m2", redrivable=False, code="cancelled"))
    assert isinstance(cancelled, ErrorFrame)
    assert cancelled.code == ErrorCode.CANCELLED


def test_other_changes_are_session_frames_that_show_no_more_than_they_must() -> None:
    """X: metadata and user ids of a session are nobody's business on the socket."""
    frame = shown_of(updated(1, Changes(escalated=True, user_id="CANARY", metadata={"note": "CANARY"})))
    assert isinstance(frame, SessionFrame)
    assert frame.escalated
    assert "CANARY" not in encode_frame(frame)
    gone = shown_of(deleted(2))
    assert isinstance(gone, SessionFrame)
    assert gone.deleted


@given(conversations(max_events=5))
def test_every_reply_event_takes_its_place_on_the_socket(events: list[ReplyEvent]) -> None:
    """Every seq is visible to clients, or they would see a gap that nothing fills."""
    for event in events:
        shown = orjson.loads(encode_frame(shown_of(event)))
        assert (shown["epoch"], shown["seq"], shown["id"]) == (event.epoch, event.seq, event.inbound_id)
