"""WebSocket frames, subprotocol `support.v1.json`: one JSON object per text frame, at most 64 KiB.

A client says `hello` first and gets `welcome`; then it sends messages. `accepted` means that Kafka has the message.
"""

from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from schemas.errors import InvalidFrame, explain
from schemas.frozen import frozen
from schemas.identity import InboundId, SessionId
from schemas.inbound import MAX_ATTACHMENTS, Attachment, Text
from schemas.replies import Citation

SUBPROTOCOL = "support.v1.json"
MAX_FRAME_BYTES = 64 * 1024


class ErrorCode(StrEnum):
    """Why something was refused. The first group ends the connection, the rest leave it open."""

    HELLO_REQUIRED = "hello_required"
    TOKEN_REQUIRED = "token_required"  # noqa: S105  # a word, no secret
    TOKEN_INVALID = "token_invalid"  # noqa: S105  # a word, no secret
    TOKEN_EXPIRED = "token_expired"  # noqa: S105  # a word, no secret
    FINGERPRINT_MISMATCH = "fingerprint_mismatch"
    BAD_JSON = "bad_json"
    UNKNOWN_TYPE = "unknown_type"
    INVALID_FIELD = "invalid_field"
    HELLO_REPEATED = "hello_repeated"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    ANSWER_UNREADABLE = "answer_unreadable"
    TURN_FAILED = "turn_failed"
    CANCELLED = "cancelled"


class CloseCode(IntEnum):
    """Codes that the server closes with (RFC 6455 §7.4, the IANA registry, and 4000 to 4999 for our own)."""

    GOING_AWAY = 1001
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    """The client reads too slowly, or the server is at its limit: reconnect and resume."""
    PROTOCOL = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    HELLO_TIMEOUT = 4408


@frozen(kw_only=True)
class Position:
    """The newest reply that a client has seen."""

    epoch: Annotated[int, Field(ge=0)]
    seq: Annotated[int, Field(ge=0)]


@frozen(kw_only=True)
class Hello:
    """Opens or resumes a session. Without `session_id` the server makes one."""

    type: Literal["hello"] = "hello"
    session_id: SessionId | None = None
    token: Annotated[str, StringConstraints(max_length=4_096)] | None = None
    resume: Position | None = None


@frozen(kw_only=True)
class MessageFrame:
    """The customer says something; `id` makes a repeated send harmless."""

    type: Literal["message"] = "message"
    id: InboundId
    text: Text
    attachments: Annotated[list[Attachment], Field(max_length=MAX_ATTACHMENTS)] = field(default_factory=list)


@frozen(kw_only=True)
class CancelFrame:
    """Stops the answer to the message `id`."""

    type: Literal["cancel"] = "cancel"
    id: InboundId


@frozen(kw_only=True)
class FeedbackFrame:
    """Judges the reply at `seq`: -1, 0 or 1."""

    type: Literal["feedback"] = "feedback"
    seq: Annotated[int, Field(ge=1)]
    score: Annotated[int, Field(ge=-1, le=1)]


@frozen(kw_only=True)
class TypingFrame:
    """The customer is typing; a hint that is kept nowhere."""

    type: Literal["typing"] = "typing"


ClientFrame = Hello | MessageFrame | CancelFrame | FeedbackFrame | TypingFrame
_BY_TYPE: Mapping[str, TypeAdapter[ClientFrame]] = {
    "hello": TypeAdapter(Hello),
    "message": TypeAdapter(MessageFrame),
    "cancel": TypeAdapter(CancelFrame),
    "feedback": TypeAdapter(FeedbackFrame),
    "typing": TypeAdapter(TypingFrame),
}


def decode_client_frame(data: str | bytes) -> ClientFrame:
    """The frame that a client sent.

    Raises:
        InvalidFrame: it is too large, no JSON object, of no known type, or a field breaks its rule.
    """
    if len(data.encode() if isinstance(data, str) else data) > MAX_FRAME_BYTES:
        raise InvalidFrame(ErrorCode.TOO_LARGE, f"A frame has at most {MAX_FRAME_BYTES} bytes.")
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidFrame(ErrorCode.BAD_JSON, f"The frame is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InvalidFrame(ErrorCode.BAD_JSON, "A frame is a JSON object.")
    kind = body.get("type")
    adapter = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        raise InvalidFrame(ErrorCode.UNKNOWN_TYPE, f"`type` must be one of {', '.join(_BY_TYPE)}.")
    try:
        return adapter.validate_python(body)
    except ValidationError as error:
        raise InvalidFrame(ErrorCode.INVALID_FIELD, explain(error)) from error


@frozen(kw_only=True)
class ReplyFrame:
    """An answer. `id` is the message that it answers (absent where an operator spoke first), `message` its text,
    so that every window on the session can show both sides."""

    type: Literal["reply"] = "reply"
    epoch: int
    seq: int
    id: str
    message: str | None
    text: str
    citations: list[Citation]
    escalated: bool | None
    """Set where this turn changed who answers; otherwise null."""
    actor: str


@frozen(kw_only=True)
class SessionFrame:
    """The session changed otherwise: fields were updated, a message arrived while a person holds it, or it is gone."""

    type: Literal["session"] = "session"
    epoch: int
    seq: int
    id: str
    deleted: bool
    message: str | None = None
    escalated: bool | None = None


@frozen(kw_only=True)
class ErrorFrame:
    """Something was refused or failed. `id` is the message concerned, (`epoch`, `seq`) its place if it took one."""

    type: Literal["error"] = "error"
    code: ErrorCode
    message: str
    retryable: bool
    id: str | None = None
    epoch: int | None = None
    seq: int | None = None


@frozen(kw_only=True)
class Accepted:
    """Kafka has the message `id`: it will be answered, whatever fails."""

    type: Literal["accepted"] = "accepted"
    id: str


@frozen(kw_only=True)
class DeltaFrame:
    """The `n`-th piece of the answer to `id`."""

    type: Literal["delta"] = "delta"
    id: str
    n: int
    text: str


SequencedFrame = ReplyFrame | SessionFrame | ErrorFrame


@frozen(kw_only=True)
class Welcome:
    """The session is open at (`epoch`, `seq`). `recovered`: `missed` has everything since the client's position."""

    type: Literal["welcome"] = "welcome"
    session_id: str
    token: str
    epoch: int
    seq: int
    recovered: bool
    missed: list[SequencedFrame]


ServerFrame = Welcome | Accepted | DeltaFrame | ReplyFrame | SessionFrame | ErrorFrame


def encode_frame(frame: ServerFrame) -> str:
    """One text frame."""
    return orjson.dumps(frame).decode()


def frame_of(event: Mapping[str, Any]) -> SequencedFrame:
    """What a customer's socket shows of a reply event.

    Takes the event's JSON fields (`schemas.replies`) as they are: every reply passes here for every socket, and what a
    worker wrote is valid.

    Raises:
        KeyError, TypeError: they are not the fields of a reply event.
    """
    epoch, seq, inbound_id = event["epoch"], event["seq"], event["inbound_id"]
    match event["type"]:
        case "turn.completed" if (reply := event["reply"]) is not None:
            message, changes = event["message"], event["changes"]
            return ReplyFrame(
                epoch=epoch,
                seq=seq,
                id=inbound_id,
                message=message["text"] if message else None,
                text=reply["text"],
                citations=reply["citations"],
                escalated=changes["escalated"] if changes else None,
                actor=event["actor"],
            )
        case "turn.failed":
            code = ErrorCode.CANCELLED if event["code"] == ErrorCode.CANCELLED else ErrorCode.TURN_FAILED
            return ErrorFrame(epoch=epoch, seq=seq, id=inbound_id, code=code, message=event["error"], retryable=False)
    message, changes = event.get("message"), event.get("changes")
    return SessionFrame(
        epoch=epoch,
        seq=seq,
        id=inbound_id,
        deleted=event["type"] == "session.deleted",
        message=message["text"] if message else None,
        escalated=changes["escalated"] if changes else None,
    )
