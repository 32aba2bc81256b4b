"""A WebSocket connection as a state machine: frames and events in, commands out. No I/O, no clock.

A client says `hello`; the shell authorizes it, subscribes to the session's replies, reads the store and calls
`opened`; events that arrive in between are buffered. Afterwards every reply goes out once, in order of (epoch, seq):
what the client has is dropped, and a gap is filled from the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import orjson

from schemas.errors import InvalidFrame
from schemas.frames import (
    CancelFrame,
    ClientFrame,
    CloseCode,
    ErrorCode,
    ErrorFrame,
    FeedbackFrame,
    Hello,
    MessageFrame,
    Position,
    SequencedFrame,
    TypingFrame,
    Welcome,
    encode_frame,
    frame_of,
)
from schemas.frozen import frozen
from schemas.replies import ReplyEvent, decode_reply


class Arrival:
    """A reply event on its way to sockets: decoded once, however many there are, and only as far as they need it.

    So an event of a newer schema passes as well: fields that it has on top are ignored.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the bytes are no reply event.
    """

    __slots__ = ("_value", "at", "frame", "inbound_id", "session_id", "text")

    def __init__(self, value: bytes) -> None:
        self._value = value
        fields = orjson.loads(value)
        epoch, seq = fields["epoch"], fields["seq"]
        # Places are compared with each other, so a place of another type would fail far from here.
        if type(epoch) is not int or type(seq) is not int:
            raise TypeError("epoch and seq must be whole numbers")
        self.at: tuple[int, int] = (epoch, seq)
        self.session_id: str = fields["session_id"]
        self.inbound_id: str = fields["inbound_id"]
        if not isinstance(self.session_id, str) or not isinstance(self.inbound_id, str):
            raise TypeError("session_id and inbound_id must be text")
        self.frame: SequencedFrame = frame_of(fields)
        self.text = encode_frame(self.frame)

    def event(self) -> ReplyEvent:
        """The whole event, validated.

        Raises:
            NewerSchema: a later version of this program wrote it.
            pydantic.ValidationError: a field breaks its rule.
        """
        return decode_reply(self._value)


@frozen()
class Send:
    """Put this text frame on the socket."""

    text: str


@frozen()
class Open:
    """Authorize the client, subscribe, read the store, and call `opened`."""

    hello: Hello


@frozen()
class Publish:
    """Publish what the client asks for; answer with `accepted` where it expects that."""

    frame: MessageFrame | CancelFrame | FeedbackFrame


@frozen()
class CatchUp:
    """Read the session's events after `after_seq` from the store and call `caught_up`."""

    after_seq: int


@frozen()
class Close:
    """Close the socket."""

    code: CloseCode
    reason: str


Command = Send | Open | Publish | CatchUp | Close


class State(Enum):
    AWAITING_HELLO = auto()
    OPENING = auto()
    OPEN = auto()
    CLOSED = auto()


@dataclass(slots=True)
class Connection:
    """One socket's side of a session."""

    state: State = State.AWAITING_HELLO
    session_id: str = ""
    position: tuple[int, int] = (0, 0)
    """(epoch, seq) of the newest reply that was sent, or that the client said it has."""
    _buffered: list[Arrival] = field(default_factory=list)
    _catching_up: bool = False

    def receive(self, frame: ClientFrame | InvalidFrame) -> list[Command]:
        """A frame came from the client."""
        if self.state is State.CLOSED:
            return []
        if self.state is State.AWAITING_HELLO:
            return self._receive_hello(frame)
        match frame:
            case InvalidFrame():
                return [_error(ErrorCode(frame.code), frame.detail)]
            case Hello():
                return [_error(ErrorCode.HELLO_REPEATED, "The session is open already; open another socket.")]
            case TypingFrame():
                return []
            case MessageFrame() | CancelFrame() | FeedbackFrame():
                return [Publish(frame)]

    def _receive_hello(self, frame: ClientFrame | InvalidFrame) -> list[Command]:
        match frame:
            case Hello():
                self.state = State.OPENING
                return [Open(frame)]
            case InvalidFrame():
                return [_error(ErrorCode(frame.code), frame.detail), self._close(CloseCode.PROTOCOL, frame.code)]
            case _:
                return [
                    _error(ErrorCode.HELLO_REQUIRED, "Say hello first."),
                    self._close(CloseCode.PROTOCOL, ErrorCode.HELLO_REQUIRED),
                ]

    def refused(self, code: ErrorCode, message: str, *, retryable: bool) -> list[Command]:
        """The session can't be opened."""
        if retryable:
            close = CloseCode.TRY_AGAIN_LATER
        else:
            close = CloseCode.FORBIDDEN if code is ErrorCode.FINGERPRINT_MISMATCH else CloseCode.UNAUTHORIZED
        return [_error(code, message, retryable=retryable), self._close(close, code)]

    def opened(
        self, session_id: str, token: str, resume: Position | None, newest: tuple[int, int], missed: Sequence[Arrival]
    ) -> list[Command]:
        """The session is subscribed and read: `newest` is where it stands ((0, 0): nothing yet), `missed` are the
        events that the store still has after `resume`."""
        self.state = State.OPEN
        self.session_id = session_id
        # A store that just lost writes is behind what the client has seen; those replies must not be shown again when
        # it has them back.
        self.position = max(newest, (resume.epoch, resume.seq)) if resume is not None else newest
        same_epoch = resume is not None and (resume.epoch == newest[0] or resume.epoch == resume.seq == 0)
        recovered = False
        if resume is not None and same_epoch:
            expected = newest[1] - resume.seq
            recovered = expected >= 0 and len(missed) == expected
        welcome = Welcome(
            session_id=session_id,
            token=token,
            epoch=self.position[0],
            seq=self.position[1],
            recovered=recovered,
            missed=[arrival.frame for arrival in missed],
        )
        buffered, self._buffered = self._buffered, []
        return [Send(encode_frame(welcome)), *self._deliver(buffered)]

    def arrived(self, arrival: Arrival) -> list[Command]:
        """A reply event of this session came from the topic."""
        if self.state is State.OPENING:
            self._buffered.append(arrival)
            return []
        if self.state is not State.OPEN:
            return []
        return self._deliver([arrival])

    def delta(self, text: str) -> list[Command]:
        """A piece of an answer came; it is worth something only to an open, up-to-date socket."""
        return [Send(text)] if self.state is State.OPEN and not self._catching_up else []

    def caught_up(self, arrivals: Sequence[Arrival]) -> list[Command]:
        """What the store has after the position asked for. A gap that it can't fill any more is skipped."""
        self._catching_up = False
        waiting = sorted([*arrivals, *self._buffered], key=lambda arrival: arrival.at)
        self._buffered = []
        commands: list[Command] = []
        for arrival in waiting:
            if arrival.at > self.position:
                self.position = arrival.at
                commands.append(Send(arrival.text))
        return commands

    def _deliver(self, arrivals: Sequence[Arrival]) -> list[Command]:
        commands: list[Command] = []
        for arrival in arrivals:
            if arrival.at <= self.position:
                continue
            if self._catching_up:
                self._buffered.append(arrival)
            elif self._follows(arrival):
                self.position = arrival.at
                commands.append(Send(arrival.text))
            else:
                self._catching_up = True
                self._buffered.append(arrival)
                same_epoch = arrival.at[0] == self.position[0]
                commands.append(CatchUp(self.position[1] if same_epoch else 0))
        return commands

    def _follows(self, arrival: Arrival) -> bool:
        epoch, seq = self.position
        return arrival.at == (epoch, seq + 1) or (arrival.at[0] > epoch and arrival.at[1] == 1)

    def _close(self, code: CloseCode, reason: str) -> Close:
        self.state = State.CLOSED
        return Close(code, reason)


def _error(code: ErrorCode, message: str, *, retryable: bool = False, inbound_id: str | None = None) -> Send:
    return Send(encode_frame(ErrorFrame(code=code, message=message, retryable=retryable, id=inbound_id)))
