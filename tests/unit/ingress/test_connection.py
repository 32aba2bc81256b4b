"""The connection: hello first, every reply once and in order, gaps filled from the store."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.connection import Arrival, CatchUp, Close, Command, Connection, Open, Publish, Send, State
from schemas.errors import InvalidFrame
from schemas.frames import (
    CancelFrame,
    ClientFrame,
    CloseCode,
    ErrorCode,
    FeedbackFrame,
    Hello,
    MessageFrame,
    Position,
    TypingFrame,
)
from schemas.replies import ReplyEvent, SessionDeleted, encode_reply
from tests.unit.schemas.events import answered, conversations


def arrival(seq: int, epoch: int = 1_000) -> Arrival:
    return Arrival(encode_reply(answered(seq, epoch=epoch)))


def frames(commands: list[Command]) -> list[dict[str, Any]]:
    return [orjson.loads(command.text) for command in commands if isinstance(command, Send)]


def places(commands: list[Command]) -> list[tuple[int, int]]:
    return [(frame["epoch"], frame["seq"]) for frame in frames(commands) if "seq" in frame]


def opened(seq: int = 0, epoch: int = 1_000) -> Connection:
    connection = Connection()
    connection.receive(Hello())
    connection.opened("s1", "token", None, (epoch, seq) if seq else (0, 0), [])
    return connection


def test_a_hello_opens() -> None:
    connection = Connection()
    assert connection.receive(Hello(session_id="s1")) == [Open(Hello(session_id="s1"))]
    (welcome,) = frames(connection.opened("s1", "token", None, (1_000, 3), []))
    assert welcome == {
        **{"type": "welcome", "session_id": "s1", "token": "token"},
        **{"epoch": 1_000, "seq": 3, "recovered": False, "missed": []},
    }


def test_anything_before_hello_ends_the_connection_with_the_reason() -> None:
    first_frames: list[ClientFrame | InvalidFrame] = [
        MessageFrame(id="m1", text="Hi"),
        TypingFrame(),
        InvalidFrame(ErrorCode.BAD_JSON, "no JSON"),
    ]
    for frame in first_frames:
        connection = Connection()
        error, close = connection.receive(frame)
        assert frames([error])[0]["type"] == "error"
        assert isinstance(close, Close)
        assert close.code == CloseCode.PROTOCOL
        assert connection.state is State.CLOSED


def test_a_closed_connection_does_nothing_any_more() -> None:
    connection = Connection()
    connection.receive(TypingFrame())
    assert connection.receive(Hello()) == []
    assert connection.arrived(arrival(1)) == []
    assert connection.delta("{}") == []


def test_a_repeated_hello_and_a_bad_frame_are_told_and_leave_it_open() -> None:
    connection = opened()
    refused: list[tuple[ClientFrame | InvalidFrame, str]] = [
        (Hello(), "hello_repeated"),
        (InvalidFrame(ErrorCode.INVALID_FIELD, "text: must not be empty"), "invalid_field"),
    ]
    for frame, code in refused:
        (error,) = frames(connection.receive(frame))
        assert (error["type"], error["code"]) == ("error", code)
    assert connection.state is State.OPEN


def test_what_a_client_asks_for_is_published_and_typing_is_not() -> None:
    connection = opened()
    asked: list[MessageFrame | CancelFrame | FeedbackFrame] = [
        MessageFrame(id="m1", text="Hi"),
        CancelFrame(id="m1"),
        FeedbackFrame(seq=1, score=1),
    ]
    for frame in asked:
        assert connection.receive(frame) == [Publish(frame)]
    assert connection.receive(TypingFrame()) == []


def test_a_refusal_says_whether_to_try_again() -> None:
    for retryable, code in [(True, CloseCode.TRY_AGAIN_LATER), (False, CloseCode.UNAUTHORIZED)]:
        connection = Connection()
        connection.receive(Hello())
        error, close = connection.refused(ErrorCode.UNAVAILABLE, "Later.", retryable=retryable)
        assert frames([error])[0]["retryable"] is retryable
        assert isinstance(close, Close)
        assert close.code == code


def test_what_arrives_during_opening_waits_and_what_the_store_had_is_dropped() -> None:
    connection = Connection()
    connection.receive(Hello())
    for seq in (2, 3, 4):
        assert connection.arrived(arrival(seq)) == []
    commands = connection.opened("s1", "token", Position(epoch=1_000, seq=1), (1_000, 3), [arrival(2), arrival(3)])
    welcome = frames(commands)[0]
    assert welcome["recovered"] is True
    assert [frame["seq"] for frame in welcome["missed"]] == [2, 3]
    assert places(commands) == [(1_000, 3), (1_000, 4)]


def test_replies_come_once() -> None:
    """D"""
    connection = opened(3)
    sent = [places(connection.arrived(arrival(seq))) for seq in (2, 3, 4, 4, 3, 5)]
    assert sent == [[], [], [(1_000, 4)], [], [], [(1_000, 5)]]


def test_a_gap_is_filled_from_the_store_in_order() -> None:
    connection = opened(3)
    assert connection.arrived(arrival(6)) == [CatchUp(3)]
    assert connection.arrived(arrival(7)) == []
    assert places(connection.caught_up([arrival(4), arrival(5), arrival(6)])) == [(1_000, n) for n in (4, 5, 6, 7)]
    assert places(connection.arrived(arrival(8))) == [(1_000, 8)]


def test_a_gap_that_the_store_cannot_fill_is_skipped() -> None:
    connection = opened(3)
    connection.arrived(arrival(90))
    assert places(connection.caught_up([arrival(41), arrival(42)])) == [(1_000, n) for n in (41, 42, 90)]


def test_a_new_epoch_is_followed() -> None:
    connection = opened(3)
    assert places(connection.arrived(arrival(1, epoch=2_000))) == [(2_000, 1)]
    assert connection.arrived(arrival(4, epoch=1_000)) == []


def test_the_middle_of_a_new_epoch_is_read_from_its_beginning() -> None:
    connection = opened(3)
    assert connection.arrived(arrival(2, epoch=2_000)) == [CatchUp(0)]
    assert places(connection.caught_up([arrival(1, epoch=2_000), arrival(2, epoch=2_000)])) == [(2_000, 1), (2_000, 2)]


def test_deltas_go_to_an_open_and_up_to_date_socket_only() -> None:
    connection = Connection()
    assert connection.delta("{}") == []
    connection = opened(3)
    assert connection.delta("{}") == [Send("{}")]
    connection.arrived(arrival(9))
    assert connection.delta("{}") == []


@pytest.mark.parametrize("newest", [(1_000, 3), (0, 0), (900, 7)])
def test_a_client_that_has_seen_more_than_the_store_knows_is_not_shown_it_again(newest: tuple[int, int]) -> None:
    """D: a store that just lost writes gets them back from the topic."""
    connection = Connection()
    connection.receive(Hello())
    (welcome,) = frames(connection.opened("s1", "token", Position(epoch=1_000, seq=5), newest, []))
    assert (welcome["epoch"], welcome["seq"], welcome["recovered"]) == (1_000, 5, False)
    shown = [place for seq in (4, 5, 6, 7) for place in places(connection.arrived(arrival(seq)))]
    assert shown == [(1_000, 6), (1_000, 7)]


def recovered(resume: Position, newest: tuple[int, int], missed: list[Arrival]) -> bool:
    connection = Connection()
    connection.receive(Hello(resume=resume))
    return bool(frames(connection.opened("s1", "token", resume, newest, missed))[0]["recovered"])


def test_a_client_is_recovered_only_if_it_misses_nothing_afterwards() -> None:
    at = Position(epoch=1_000, seq=2)
    assert recovered(at, (1_000, 2), [])
    assert recovered(at, (1_000, 4), [arrival(3), arrival(4)])
    assert recovered(Position(epoch=0, seq=0), (1_000, 1), [arrival(1)])
    assert recovered(Position(epoch=0, seq=0), (0, 0), [])


def test_a_client_is_not_recovered_from_another_epoch_or_too_long_ago_or_ahead_of_us() -> None:
    at = Position(epoch=1_000, seq=2)
    assert not recovered(at, (2_000, 2), [])
    assert not recovered(at, (1_000, 90), [arrival(seq) for seq in range(41, 91)])
    assert not recovered(at, (1_000, 1), [])
    assert not recovered(at, (0, 0), [])


class Log:
    """The session's events as store and topic have them: the store is ahead, the topic may repeat itself."""

    def __init__(self, events: list[ReplyEvent]) -> None:
        self.events = events
        self.stored = self.published = 0

    def stored_after(self, seq: int) -> list[Arrival]:
        """What the store gives: the current epoch only, and of a deleted session the deletion only."""
        current = self.events[: self.stored]
        if current and isinstance(current[-1], SessionDeleted):
            current = current[-1:]
        return [Arrival(encode_reply(e)) for e in current if e.epoch == current[-1].epoch and e.seq > seq][-50:]

    @property
    def newest(self) -> tuple[int, int]:
        event = self.events[self.stored - 1]
        return (event.epoch, event.seq) if self.stored else (0, 0)


def interleave(log: Log, data: st.DataObject) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """One connection over any interleaving of topic arrivals, duplicates and store reads. Returns what was sent, and
    where the session stood at the opening."""
    connection = Connection()
    connection.receive(Hello())
    sent: list[tuple[int, int]] = []
    pending: list[list[Arrival] | int] = []
    start = (0, 0)

    def do(commands: list[Command]) -> None:
        sent.extend(places([command for command in commands if '"welcome"' not in getattr(command, "text", "")]))
        pending.extend(command.after_seq for command in commands if isinstance(command, CatchUp))
        assert len(pending) <= 1, "one read of the store at a time"

    def step(action: str) -> None:
        nonlocal start
        match action:
            case "store" if log.stored < len(log.events):
                log.stored += 1
            case "publish" if log.published < log.stored:
                log.published += 1
                do(connection.arrived(Arrival(encode_reply(log.events[log.published - 1]))))
            case "lose" if log.published < log.stored:
                log.published += 1
            case "repeat" if log.published:
                again = data.draw(st.integers(0, log.published - 1))
                do(connection.arrived(Arrival(encode_reply(log.events[again]))))
            case "open" if connection.state is State.OPENING:
                start = log.newest
                do(connection.opened("s1", "token", None, start, []))
            case "read" if pending and isinstance(after := pending[0], int):
                pending[0] = log.stored_after(after)
            case "response" if pending and isinstance(pending[0], list):
                do(connection.caught_up(pending.pop()))  # type: ignore[arg-type]

    actions = ["store", "store", "publish", "publish", "lose", "repeat", "open", "read", "response"]
    for action in data.draw(st.lists(st.sampled_from(actions), max_size=60)):
        step(action)
    for action in ("open", *["read", "response"], *["store"] * len(log.events), *["publish"] * len(log.events)):
        step(action)
    for action in ("read", "response", "read", "response"):
        step(action)
    return sent, start


@given(conversations(max_events=12), st.data())
def test_every_reply_is_delivered_at_most_once_and_in_order(events: list[ReplyEvent], data: st.DataObject) -> None:
    """D"""
    sent, start = interleave(Log(events), data)
    assert sent == sorted(set(sent))
    assert all(place > start for place in sent)


@given(st.integers(1, 12), st.data())
def test_nothing_between_the_opening_and_the_newest_arrival_is_left_out(count: int, data: st.DataObject) -> None:
    """L: whatever the topic lost or repeated, as long as one later event arrives."""
    sent, (_, begin) = interleave(Log([answered(seq) for seq in range(1, count + 1)]), data)
    newest = max((seq for _, seq in sent), default=begin)
    assert [seq for _, seq in sent] == list(range(begin + 1, newest + 1))
