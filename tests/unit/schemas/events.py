"""Reply events to build sessions from, and Hypothesis strategies that draw whole conversations."""

from typing import Any

from hypothesis import strategies as st

from schemas.inbound import Changes, Scalar
from schemas.replies import (
    Citation,
    CustomerMessage,
    Reply,
    ReplyEvent,
    SessionDeleted,
    SessionUpdated,
    Source,
    TurnCompleted,
    TurnFailed,
)

AT = "2026-01-02T03:04:05.678Z"
INBOUND = "support.inbound.v1"


def source(offset: int, partition: int = 3, topic: str = INBOUND) -> Source:
    return Source(topic=topic, partition=partition, offset=offset)


def answered(
    seq: int,
    *,
    epoch: int = 1_000,
    version: int | None = None,
    inbound_id: str | None = None,
    text: str = "How do I reset my password?",
    user_id: str | None = None,
    at: Source | None = None,
    changes: Changes | None = None,
    session_id: str = "s1",
) -> TurnCompleted:
    """A customer's message with its reply, at offset `seq` unless `at` says otherwise."""
    inbound_id = inbound_id or f"m{seq}"
    return TurnCompleted(
        id=f"turn-{epoch}-{inbound_id}",
        session_id=session_id,
        epoch=epoch,
        seq=seq,
        version=version or seq,
        inbound_id=inbound_id,
        source=at or source(seq),
        actor="agent",
        completed_at=AT,
        message=CustomerMessage(id=inbound_id, text=text, user_id=user_id),
        reply=Reply(text=f"Answer to {inbound_id}.", generator="scripted"),
        changes=changes,
    )


def failed(seq: int, *, inbound_id: str, redrivable: bool = True, code: str = "retries_exhausted") -> TurnFailed:
    return TurnFailed(
        id=f"turn-1000-{inbound_id}",
        session_id="s1",
        epoch=1_000,
        seq=seq,
        version=seq,
        inbound_id=inbound_id,
        source=source(seq),
        actor="system",
        completed_at=AT,
        code=code,
        error="The message could not be answered.",
        redrivable=redrivable,
    )


def updated(seq: int, changes: Changes, *, epoch: int = 1_000, version: int | None = None) -> SessionUpdated:
    return SessionUpdated(
        id=f"update-{epoch}-{seq}",
        session_id="s1",
        epoch=epoch,
        seq=seq,
        version=version or seq,
        inbound_id=f"u{seq}",
        source=source(seq),
        actor="system",
        completed_at=AT,
        changes=changes,
    )


def deleted(seq: int, *, epoch: int = 1_000, version: int | None = None, offset: int | None = None) -> SessionDeleted:
    return SessionDeleted(
        id=f"delete-{epoch}-{seq}",
        session_id="s1",
        epoch=epoch,
        seq=seq,
        version=version or seq,
        inbound_id=f"d{seq}",
        source=source(seq if offset is None else offset),
        actor="system",
        completed_at=AT,
    )


scalars: st.SearchStrategy[Scalar] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=10)
)
short_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
changes = st.builds(
    Changes,
    user_id=st.none() | short_texts,
    thread_id=st.none() | short_texts,
    escalated=st.none() | st.booleans(),
    metadata=st.none() | st.dictionaries(st.sampled_from("abcdé"), scalars, max_size=4),
    claimed=st.none() | st.just(True),
)
replies = st.builds(
    Reply,
    text=short_texts,
    citations=st.lists(
        st.builds(
            Citation, doc_id=short_texts, title=short_texts, passage=short_texts, score=st.floats(-1, 1), url=st.none()
        ),
        max_size=2,
    ),
    generator=st.just("scripted"),
    confidence=st.none() | st.floats(0, 1),
)


@st.composite
def conversations(draw: st.DrawFn, max_events: int = 25) -> list[ReplyEvent]:
    """A whole life of a session: events without gaps, with deletions and new epochs where they may be."""
    events: list[ReplyEvent] = []
    epoch, seq = draw(st.integers(1, 2**45)), 0
    for version in range(1, draw(st.integers(1, max_events)) + 1):
        if events and isinstance(events[-1], SessionDeleted):
            epoch, seq = epoch + draw(st.integers(1, 1_000)), 0
        seq += 1
        inbound_id = f"i{version}"
        kind = draw(st.sampled_from(["answered", "answered", "held", "operator", "failed", "updated", "deleted"]))
        fields: dict[str, Any] = {
            "id": f"e{version}",
            "session_id": "s1",
            "epoch": epoch,
            "seq": seq,
            "version": version,
            "inbound_id": inbound_id,
            "source": draw(st.none() | st.builds(source, st.integers(0, 2**62), st.integers(0, 11))),
            "actor": "agent",
            "completed_at": AT,
        }
        message = CustomerMessage(id=inbound_id, text=draw(short_texts), user_id=draw(st.none() | short_texts))
        match kind:
            case "answered":
                drawn = draw(st.none() | changes)
                events.append(TurnCompleted(**fields, message=message, reply=draw(replies), changes=drawn))
            case "held":
                events.append(TurnCompleted(**fields, message=message, reply=None))
            case "operator":
                events.append(TurnCompleted(**fields, message=None, reply=draw(replies)))
            case "failed":
                redrivable = draw(st.booleans())
                events.append(TurnFailed(**fields, code="x", error="y", redrivable=redrivable))
            case "updated":
                events.append(SessionUpdated(**fields, changes=draw(changes)))
            case _:
                events.append(SessionDeleted(**fields))
    return events
