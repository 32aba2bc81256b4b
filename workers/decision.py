"""What one inbound event does to a session: a pure function from event, state and answer to the reply event."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, assert_never

from schemas.fold import applied_after, counters_out_of_range, fact_fields, metadata_after, source_key
from schemas.frozen import frozen
from schemas.identity import turn_id
from schemas.inbound import (
    MAX_COUNTER,
    MAX_METADATA_BYTES,
    Cancel,
    Changes,
    Feedback,
    InboundEvent,
    Message,
    OperatorMessage,
    SessionDelete,
    SessionUpdate,
    is_too_large,
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
from workers.errors import PermanentError
from workers.generation.protocol import Answer, Retrieval

NO_CHANGES = Changes()


@frozen()
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
    return TurnCompleted(
        **_of(event, source, session, now),
        actor="agent",
        message=message,
        reply=Reply(
            text=answer.text,
            citations=answer.citations,
            generator=draft.generator,
            kb_version=draft.retrieval.kb_version,
            confidence=answer.confidence,
        ),
        changes=_changes(answer, event, session),
        timings_ms=draft.timings_ms,
    )


def _changes(answer: Answer, event: Message, session: SessionData | None) -> Changes | None:
    """What a turn changes beside counting it."""
    before = None if session is None or session.deleted else session
    escalated = answer.escalates and not (before and before.escalated)
    fingerprint = None if before and before.fingerprint_hash else event.fingerprint_hash
    if not escalated and fingerprint is None:
        return None
    return Changes(escalated=escalated or None, fingerprint_hash=fingerprint)


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
    # Named after its record as well: a redriven record has the same inbound id, and its answer is another event.
    event_id = turn_id(session_id, f"{inbound_id}\n{source_key(source)}:{source.offset}")
    return TurnFailed(
        **fact_fields(event_id, session_id, inbound_id, source, session, now.ms, now.rfc3339),
        actor="system",
        code=code,
        error=error,
        attempts=attempts,
        redrivable=redrivable,
    )


def decided(
    event: InboundEvent, source: Source, session: SessionData | None, now: Moment, *, key_ids: Sequence[str] = ()
) -> ReplyEvent | None:
    """The fact that follows from an event which needs no answer; None where nothing follows. `key_ids` are those of
    the session's keys, for a deletion."""
    match event:
        case SessionUpdate():
            return SessionUpdated(
                **_of(event, source, session, now), actor="system", changes=effective(event.changes, session)
            )
        case SessionDelete():
            applied = applied_after(session.applied if session else {}, source)
            return SessionDeleted(
                **_of(event, source, session, now), actor="system", applied=applied, keys=list(key_ids)
            )
        case Feedback():
            if session is None or session.deleted or event.seq > session.seq:
                return None
            return SessionUpdated(
                **_of(event, source, session, now),
                actor="customer",
                changes=NO_CHANGES,
                feedback={"seq": event.seq, "score": event.score},
            )
        case OperatorMessage():
            return TurnCompleted(
                **_of(event, source, session, now),
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
    """`changes` as they take effect. Of two claims on a session the first counts, and its owner sees `claimed` in the
    fact; the second leaves no fingerprint either. A session keeps its first fingerprint.

    Raises:
        PermanentError: the session's metadata, or a counter, would become too large.
    """
    if changes.counters and (names := counters_out_of_range(session, changes)):
        raise PermanentError("counter_out_of_range", f"{', '.join(names)}: a counter has at most {MAX_COUNTER}.")
    if (changes.metadata or changes.counters) and is_too_large(metadata_after(session, changes)):
        raise PermanentError(
            "metadata_too_large", f"A session's metadata has at most {MAX_METADATA_BYTES} bytes as JSON."
        )
    if session is None or session.deleted:
        return changes
    if changes.claimed and session.claimed:
        return replace(changes, claimed=None, fingerprint_hash=None)
    if changes.fingerprint_hash and session.fingerprint_hash:
        return replace(changes, fingerprint_hash=None)
    return changes


def _of(event: InboundEvent, source: Source, session: SessionData | None, now: Moment) -> dict[str, Any]:
    event_id = turn_id(event.session_id, event.id)
    return fact_fields(event_id, event.session_id, event.id, source, session, now.ms, now.rfc3339)
