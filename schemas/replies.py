"""Reply events: what a worker decided. Facts, in the past tense; the reply topic is also the session changelog.

An event carries everything that its effect on the session needs, so the fold (`schemas.fold`) never looks elsewhere.
Dataclasses, not models: a worker makes them from what is validated already, so only reading validates.
"""

from dataclasses import field
from typing import Annotated, Literal

import orjson
from pydantic import Field, StringConstraints, TypeAdapter

from schemas.frozen import frozen
from schemas.identity import MAX_INBOUND_ID, SessionId
from schemas.inbound import Attachment, Changes, Rfc3339, Scalar
from schemas.upcasting import upcast

Actor = Literal["customer", "agent", "operator", "system"]


@frozen(kw_only=True)
class Source:
    """The inbound record that an event answers."""

    topic: str
    partition: int
    offset: int


@frozen(kw_only=True)
class Citation:
    """A passage that a claim of the reply rests on; `[n]` in the text is the n-th citation, from 1."""

    doc_id: str
    title: str
    url: str | None = None
    passage: str
    score: float
    """Cosine similarity of question and passage, -1 to 1."""


@frozen(kw_only=True)
class Reply:
    """What the customer reads."""

    text: str
    citations: list[Citation] = field(default_factory=list)
    generator: str
    kb_version: str | None = None
    confidence: float | None = None
    """0 to 1; None where the generator has no measure of it."""


@frozen(kw_only=True)
class CustomerMessage:
    """The inbound message as it was accepted."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_INBOUND_ID)]
    """An `InboundId`. Events are read from JSON alone, whose parser refuses what `encodable` looks for."""
    text: str
    user_id: str | None = None
    metadata: dict[str, Scalar] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)
    sent_at: Rfc3339 | None = None


@frozen(kw_only=True)
class Fact:
    """What every reply event has. `seq` counts the events of one epoch of a session from 1 without gaps;
    `version` is the store's compare-and-set number after it, and never restarts while the store remembers the session.
    """

    type: str
    id: str
    session_id: SessionId
    epoch: int
    seq: int
    version: int
    inbound_id: str
    source: Source | None
    """None for a change that came from no topic record (a direct write through the store API)."""
    actor: Actor
    completed_at: Rfc3339
    applied_before: dict[str, int] | None = None
    """On the first event after a deletion: what the deleted session had applied, so that a record that comes again is
    still recognised."""


@frozen(kw_only=True)
class TurnCompleted(Fact):
    """One message and its reply, applied to the session as one step. A turn without a message is an operator
    speaking; one without a reply is a message received while a person holds the session."""

    type: Literal["turn.completed"] = "turn.completed"
    message: CustomerMessage | None
    reply: Reply | None
    changes: Changes | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)


@frozen(kw_only=True)
class TurnFailed(Fact):
    """The message was not answered: it is in the dead letter topic (`code` says why) or was cancelled."""

    type: Literal["turn.failed"] = "turn.failed"
    code: str
    error: str
    attempts: int = 1
    redrivable: bool = True
    """Whether the record may come again, from the dead letter topic, and shall then be answered."""


@frozen(kw_only=True)
class SessionUpdated(Fact):
    """Fields of the session changed, or feedback about a reply was noted."""

    type: Literal["session.updated"] = "session.updated"
    changes: Changes
    feedback: dict[str, int] | None = None


@frozen(kw_only=True)
class SessionDeleted(Fact):
    """The session is gone; a later message begins a new epoch."""

    type: Literal["session.deleted"] = "session.deleted"
    applied: dict[str, int] | None = None
    """What the session had applied, with this event: so the tombstone follows from the event alone, when all before it
    can't be read any more. None in events of before there was that."""
    keys: list[str] = field(default_factory=list)
    """The ids of the session's keys, which are destroyed before the event is published; not one that is made later."""


ReplyEvent = TurnCompleted | TurnFailed | SessionUpdated | SessionDeleted
ReplyUnion = Annotated[ReplyEvent, Field(discriminator="type")]
_REPLY: TypeAdapter[ReplyEvent] = TypeAdapter(ReplyUnion)


def decode_reply(value: bytes) -> ReplyEvent:
    """The event in a record of the reply topic, of whichever version.

    Raises:
        pydantic.ValidationError: it isn't one.
        NewerSchema: a later version of this program wrote it.
    """
    return _REPLY.validate_json(upcast(value))


def encode_reply(event: ReplyEvent) -> bytes:
    """The record value of a reply event. The store keeps these bytes, and exactly these are published."""
    return orjson.dumps(event)
