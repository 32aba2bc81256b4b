"""Inbound events: what a customer, an operator or another system asks for.

Like everything on the wire, frozen dataclasses: what comes from outside is validated where it is decoded, and readers
ignore fields they don't know, so a newer writer never breaks them.

The least that another system must send is a record with the session id as key and `{"text": "…"}` as value.
"""

from collections.abc import Mapping
from dataclasses import field
from math import isfinite
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, TypeAdapter, ValidationError

from schemas.errors import InvalidRecord, explain
from schemas.frozen import frozen
from schemas.identity import InboundId, SessionId, derived_inbound_id, encodable, is_session_id

MAX_TEXT_CHARACTERS = 8_000
MAX_METADATA_BYTES = 4_096
MAX_ATTACHMENTS = 10
MAX_COUNTER = 2**53 - 1
"""What a counter counts up or down to at most, and what is added to it at once: every JSON reader has it exactly."""
MAX_TTL_SECONDS = 10 * 365 * 24 * 60 * 60

Rfc3339 = Annotated[
    str,
    StringConstraints(pattern=r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$", max_length=40),
]
Scalar = str | int | float | bool | None


def _not_blank(text: Any) -> Any:
    if isinstance(text, str) and not text.strip():
        raise ValueError("must not be empty")
    return text


Text = Annotated[
    str,
    BeforeValidator(_not_blank),
    StringConstraints(min_length=1, max_length=MAX_TEXT_CHARACTERS),
    AfterValidator(encodable),
]


@frozen(kw_only=True)
class Attachment:
    """A reference to a file that the customer added; the bytes are never in the event."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(encodable)]
    content_type: Annotated[str, StringConstraints(max_length=127), AfterValidator(encodable)] = (
        "application/octet-stream"
    )
    url: Annotated[str, StringConstraints(pattern=r"^https://", max_length=2_048), AfterValidator(encodable)]


def is_too_large(metadata: dict[str, Scalar]) -> bool:
    return len(orjson.dumps(metadata)) > MAX_METADATA_BYTES


def _check_metadata(metadata: dict[str, Scalar]) -> dict[str, Scalar]:
    if not metadata:
        return metadata
    if any(isinstance(value, float) and not isfinite(value) for value in metadata.values()):
        raise ValueError("has a number that is not finite")
    try:
        too_large = is_too_large(metadata)
    except TypeError as error:
        raise ValueError(f"can't be written as JSON: {error}") from error
    if too_large:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes as JSON")
    return metadata


Metadata = Annotated[dict[str, Scalar], AfterValidator(_check_metadata)]
"""Flat, and at most `MAX_METADATA_BYTES` as JSON."""
ShortText = Annotated[str, StringConstraints(max_length=128), AfterValidator(encodable)]


@frozen(kw_only=True)
class Changes:
    """A patch of a session: what is None stays. `metadata` is merged, a null in it removes the key (RFC 7396)."""

    user_id: ShortText | None = None
    thread_id: ShortText | None = None
    escalated: bool | None = None
    metadata: Metadata | None = None
    fingerprint_hash: ShortText | None = None
    claimed: bool | None = None
    counters: Annotated[dict[ShortText, int], Field(max_length=20)] | None = None
    """What is added to `message_count`, or to a whole number in `metadata`, by name."""
    ttl_seconds: Annotated[int, Field(ge=1, le=MAX_TTL_SECONDS)] | None = None


def _check_counters(changes: Changes) -> Changes:
    """Only where they come in: events of before must stay readable."""
    if any(abs(delta) > MAX_COUNTER for delta in (changes.counters or {}).values()):
        raise ValueError(f"a counter changes by at most {MAX_COUNTER}")
    return changes


@frozen(kw_only=True)
class Inbound:
    """What every inbound event has."""

    type: str
    id: InboundId
    session_id: SessionId


@frozen(kw_only=True)
class Message(Inbound):
    """A customer's message: it becomes one turn."""

    type: Literal["message"] = "message"
    text: Text
    user_id: ShortText | None = None
    metadata: Metadata = field(default_factory=dict)
    attachments: Annotated[list[Attachment], Field(max_length=MAX_ATTACHMENTS)] = field(default_factory=list)
    sent_at: Rfc3339 | None = None
    fingerprint_hash: ShortText | None = None
    """Of the client, if the ingress made it; a session keeps its first one."""


@frozen(kw_only=True)
class SessionUpdate(Inbound):
    """Asks to change fields of the session."""

    type: Literal["session.update"] = "session.update"
    changes: Annotated[Changes, AfterValidator(_check_counters)]


@frozen(kw_only=True)
class SessionDelete(Inbound):
    """Asks to forget the session."""

    type: Literal["session.delete"] = "session.delete"


@frozen(kw_only=True)
class Cancel(Inbound):
    """Asks to stop the answer to the message `target`; without effect once it is committed."""

    type: Literal["cancel"] = "cancel"
    target: InboundId


@frozen(kw_only=True)
class Feedback(Inbound):
    """A customer's judgement of the reply at `seq`: -1 bad, 0 withdrawn, 1 good."""

    type: Literal["feedback"] = "feedback"
    seq: Annotated[int, Field(ge=1)]
    score: Annotated[int, Field(ge=-1, le=1)]


@frozen(kw_only=True)
class OperatorMessage(Inbound):
    """A person answers instead of the assistant."""

    type: Literal["operator.message"] = "operator.message"
    text: Text
    operator: Annotated[str, StringConstraints(min_length=1, max_length=128)]


InboundEvent = Message | SessionUpdate | SessionDelete | Cancel | Feedback | OperatorMessage
_BY_TYPE: Mapping[str, TypeAdapter[InboundEvent]] = {
    "message": TypeAdapter(Message),
    "session.update": TypeAdapter(SessionUpdate),
    "session.delete": TypeAdapter(SessionDelete),
    "cancel": TypeAdapter(Cancel),
    "feedback": TypeAdapter(Feedback),
    "operator.message": TypeAdapter(OperatorMessage),
}


def decode_inbound(value: bytes | None, key: bytes | None, topic: str, partition: int, offset: int) -> InboundEvent:
    """The inbound event in a topic record.

    The session id is the body's `session_id`, else the key; the id is the body's `id`, else derived from where the
    record stands.

    Raises:
        InvalidRecord: the record can't become an event; its `reason` is an `InvalidReason`.
    """
    if value is None:
        raise InvalidRecord("no_value", "The record has no value; send a JSON object with a `text`.")
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise InvalidRecord("bad_json", f"The value is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InvalidRecord("bad_json", f"The value must be a JSON object, not {type(body).__name__}.")
    kind = body.get("type", "message")
    adapter = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        raise InvalidRecord("unknown_type", f"`type` must be one of {', '.join(_BY_TYPE)}.")
    body["type"] = kind
    body["session_id"] = _session_id(body.get("session_id"), key)
    if body.get("id") is None:
        body["id"] = derived_inbound_id(topic, partition, offset)
    try:
        return adapter.validate_python(body)
    except ValidationError as error:
        raise InvalidRecord("invalid_field", explain(error), body["session_id"]) from error


def _session_id(in_body: object, key: bytes | None) -> str:
    try:
        in_key = key.decode() if key else None
    except UnicodeDecodeError as error:
        raise InvalidRecord("bad_session_id", "The record's key is not UTF-8.") from error
    if in_body is None:
        in_body = in_key
    elif in_key is not None and in_body != in_key:
        raise InvalidRecord("key_mismatch", "`session_id` and the record's key differ; send one, or both alike.")
    if in_body is None:
        raise InvalidRecord("no_session", "The record names no session: set its key or `session_id`.")
    if not isinstance(in_body, str) or not is_session_id(in_body):
        raise InvalidRecord("bad_session_id", "A session id has 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    return in_body


def encode_inbound(event: InboundEvent) -> bytes:
    """The record value of an inbound event."""
    return orjson.dumps(event)
