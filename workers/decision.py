"""What one inbound event does to a session: a pure function from event, state and answer to the reply event."""

from dataclasses import dataclass, replace
from typing import Any, assert_never

from schemas.fold import next_position
from schemas.identity import turn_id
from schemas.inbound import (
    Cancel,
    Changes,
    Feedback,
    InboundEvent,
    Message,
    OperatorMessage,
    SessionDelete,
    SessionUpdate,
)
from schemas.replies import (
    CustomerMessage,
    Reply,
    ReplyEvent,
    SessionDeleted,
    SessionUpdated,
    Source,
    TurnCompleted,
    TurnFailed,
)
from schemas.session import SessionData
from workers.clock import Moment
from workers.generation.protocol import Answer, Retrieval

NO_CHANGES = Changes()
ESCALATED = Changes(escalated=True)


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer and how it came about."""

    answer: Answer
    retrieval: Retrieval
    generator: str
    timings_ms: dict[str, float]


def customer_message(event: Message) -> CustomerMessage:
    return CustomerMessage(
        id=event.id,
        text=event.text,
        user_id=event.user_id,
        metadata=event.metadata,
        attachments=event.attachments,
        sent_at=event.sent_at,
    )


def completed(
    event: Message, message: CustomerMessage, source: Source, session: SessionData | None, draft: Draft, now: Moment
) -> TurnCompleted:
    """The turn of a customer's message."""
    answer = draft.answer
    escalates = answer.escalates and not (session is not None and session.escalated)
    return TurnCompleted(
        **_position(event, source, session, now),
        actor="agent",
        message=message,
        reply=Reply(
            text=answer.text,
            citations=answer.citations,
            generator=draft.generator,
            kb_version=draft.retrieval.kb_version,
            confidence=answer.confidence,
        ),
        changes=ESCALATED if escalates else None,
        timings_ms=draft.timings_ms,
    )


def failed(
    session_id: str,
    inbound_id: str,
    source: Source,
    session: SessionData | None,
    now: Moment,
    *,
    code: str,
    error: str,
    attempts: int,
    redrivable: bool = True,
) -> TurnFailed:
    """The turn of a record that was not answered."""
    epoch, seq, version = next_position(session, now.ms)
    return TurnFailed(
        id=turn_id(session_id, inbound_id),
        session_id=session_id,
        epoch=epoch,
        seq=seq,
        version=version,
        inbound_id=inbound_id,
        source=source,
        actor="system",
        completed_at=now.rfc3339,
        code=code,
        error=error,
        attempts=attempts,
        redrivable=redrivable,
    )


def decided(event: InboundEvent, source: Source, session: SessionData | None, now: Moment) -> ReplyEvent | None:
    """The fact that follows from an event which needs no answer; None where nothing follows."""
    match event:
        case SessionUpdate():
            return SessionUpdated(
                **_position(event, source, session, now), actor="system", changes=effective(event.changes, session)
            )
        case SessionDelete():
            return SessionDeleted(**_position(event, source, session, now), actor="system")
        case Feedback():
            if session is None or session.deleted or event.seq > session.seq:
                return None
            return SessionUpdated(
                **_position(event, source, session, now),
                actor="customer",
                changes=NO_CHANGES,
                feedback={"seq": event.seq, "score": event.score},
            )
        case OperatorMessage():
            return TurnCompleted(
                **_position(event, source, session, now),
                actor="operator",
                message=None,
                reply=Reply(text=event.text, generator=f"operator:{event.operator}"),
            )
        case Cancel():
            return None
        case Message():
            raise TypeError("a message needs an answer: use `completed`")
    assert_never(event)


def effective(changes: Changes, session: SessionData | None) -> Changes:
    """`changes` without a claim on a session that was claimed before: of two claims the first counts, and its
    owner sees `claimed` in the fact."""
    if changes.claimed and session is not None and not session.deleted and session.claimed:
        return replace(changes, claimed=None)
    return changes


def _position(event: InboundEvent, source: Source, session: SessionData | None, now: Moment) -> dict[str, Any]:
    epoch, seq, version = next_position(session, now.ms)
    return {
        "id": turn_id(event.session_id, event.id),
        "session_id": event.session_id,
        "epoch": epoch,
        "seq": seq,
        "version": version,
        "inbound_id": event.id,
        "source": source,
        "completed_at": now.rfc3339,
    }
