"""The fold: the only code that changes a session.

A worker makes the next state with it, a replay rebuilds with it; so a rebuilt session equals the live one by
construction. No clock and no randomness: times and ids come from the event. Its cost doesn't grow with the
conversation: everything that it copies is bounded.
"""

from dataclasses import replace
from typing import Any

from schemas.errors import SequenceGap
from schemas.inbound import MAX_COUNTER, Changes, Scalar
from schemas.replies import ReplyEvent, SessionDeleted, SessionUpdated, Source, TurnCompleted
from schemas.session import RECENT_IDS, SessionData

MESSAGE_COUNT = "message_count"
"""The counter that is a field of its own; other counters are in `metadata`."""


def evolve(session: SessionData | None, event: ReplyEvent) -> SessionData:
    """The session after `event`.

    The first event (`seq` 1) of an epoch starts from nothing, whatever was before, and a deletion leaves nothing of
    it. An event that the session is already past is ignored: the first per `seq` wins.

    Raises:
        SequenceGap: events between the session and this one are missing.
    """
    if event.seq == 1 and (session is None or event.epoch > session.epoch):
        return _apply(_born(event), event)
    if session is not None and (event.epoch, event.seq) <= (session.epoch, session.seq):
        return session
    if isinstance(event, SessionDeleted) and event.applied is not None:
        return _tombstone(event, event.applied)
    if session is None:
        raise SequenceGap(f"{event.session_id}: the first event seen is seq {event.seq}, not 1")
    if event.epoch != session.epoch or event.seq != session.seq + 1:
        raise SequenceGap(
            f"{event.session_id}: epoch {event.epoch} seq {event.seq} does not follow "
            f"epoch {session.epoch} seq {session.seq}"
        )
    return _apply(session, event)


def next_position(session: SessionData | None, now_ms: int) -> tuple[int, int, int]:
    """(epoch, seq, version) of the event that follows `session`; a new or deleted one begins an epoch at `now_ms`."""
    if session is None:
        return now_ms, 1, 1
    if session.deleted:
        return max(now_ms, session.epoch + 1), 1, session.version + 1
    return session.epoch, session.seq + 1, session.version + 1


def fact_fields(
    event_id: str,
    session_id: str,
    inbound_id: str,
    source: Source | None,
    session: SessionData | None,
    now_ms: int,
    completed_at: str,
) -> dict[str, Any]:
    """The fields that every fact has, for the one that follows `session`."""
    epoch, seq, version = next_position(session, now_ms)
    return {
        "id": event_id,
        "session_id": session_id,
        "epoch": epoch,
        "seq": seq,
        "version": version,
        "inbound_id": inbound_id,
        "source": source,
        "completed_at": completed_at,
        "applied_before": session.applied if session is not None and session.deleted else None,
    }


def source_key(source: Source) -> str:
    """How `SessionData.applied` names the partition that a record came from."""
    return f"{source.topic}:{source.partition}"


def _born(event: ReplyEvent) -> SessionData:
    return SessionData(
        session_id=event.session_id,
        epoch=event.epoch,
        seq=0,
        version=0,
        created_at=event.completed_at,
        applied=event.applied_before or {},
    )


def _tombstone(event: SessionDeleted, applied: dict[str, int]) -> SessionData:
    return SessionData(
        session_id=event.session_id,
        epoch=event.epoch,
        seq=event.seq,
        version=event.version,
        request_id=event.inbound_id,
        applied=applied,
        updated_at=event.completed_at,
        deleted=True,
    )


def applied_after(applied: dict[str, int], source: Source | None) -> dict[str, int]:
    """What is applied once the record at `source` is, too."""
    if source is None:
        return applied
    key = source_key(source)
    return {**applied, key: max(source.offset, applied.get(key, -1))}


def _apply(session: SessionData, event: ReplyEvent) -> SessionData:
    applied = applied_after(session.applied, event.source)
    if isinstance(event, SessionDeleted):
        return _tombstone(event, applied)
    message, changes, remembered, last_activity = None, None, True, session.last_activity
    if isinstance(event, TurnCompleted):
        message, changes, last_activity = event.message, event.changes, event.completed_at
    elif isinstance(event, SessionUpdated):
        changes = event.changes
    else:
        # A record redriven from the dead letter topic shall be answered, so its id is not remembered.
        remembered = not event.redrivable
    user_id = message.user_id if message is not None else None
    after = SessionData(
        session_id=session.session_id,
        epoch=session.epoch,
        seq=event.seq,
        version=event.version,
        user_id=session.user_id if user_id is None else user_id,
        thread_id=session.thread_id,
        message_count=session.message_count + (message is not None and session.message_count < MAX_COUNTER),
        escalated=session.escalated,
        claimed=session.claimed,
        metadata=session.metadata,
        request_id=event.inbound_id,
        fingerprint_hash=session.fingerprint_hash,
        created_at=session.created_at,
        updated_at=event.completed_at,
        last_activity=last_activity,
        applied=applied,
        recent_ids=(*session.recent_ids, event.inbound_id)[-RECENT_IDS:] if remembered else session.recent_ids,
        ttl_seconds=session.ttl_seconds,
    )
    # Most turns change nothing else.
    return after if changes is None else _changed(after, changes)


def _changed(session: SessionData, changes: Changes) -> SessionData:
    counted = changes.counters.get(MESSAGE_COUNT, 0) if changes.counters else 0
    return replace(
        session,
        user_id=changes.user_id or session.user_id,
        thread_id=session.thread_id if changes.thread_id is None else changes.thread_id,
        message_count=session.message_count + counted,
        escalated=session.escalated if changes.escalated is None else changes.escalated,
        claimed=session.claimed if changes.claimed is None else changes.claimed,
        metadata=metadata_after(session, changes),
        fingerprint_hash=changes.fingerprint_hash or session.fingerprint_hash,
        ttl_seconds=session.ttl_seconds if changes.ttl_seconds is None else changes.ttl_seconds,
    )


def metadata_after(session: SessionData | None, changes: Changes) -> dict[str, Scalar]:
    """The session's metadata with what `changes` merges into it, and then with what it counts."""
    metadata = session.metadata if session is not None else {}
    if changes.metadata:
        metadata = merge_patch(metadata, changes.metadata)
    if changes.counters:
        added = {name: delta for name, delta in changes.counters.items() if name != MESSAGE_COUNT}
        metadata = merge_patch(metadata, {name: delta + number(metadata.get(name)) for name, delta in added.items()})
    return metadata


def number(value: Scalar) -> int:
    """What a counter in `metadata` stands at; anything but a whole number counts as 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def counters_out_of_range(session: SessionData | None, changes: Changes) -> list[str]:
    """Names of the counters that `changes` would take beyond `MAX_COUNTER`, up or down."""
    metadata = merge_patch(session.metadata if session else {}, changes.metadata or {})
    messages = session.message_count if session else 0
    return [
        name
        for name, delta in (changes.counters or {}).items()
        if abs(delta + (messages if name == MESSAGE_COUNT else number(metadata.get(name)))) > MAX_COUNTER
    ]


def merge_patch(metadata: dict[str, Scalar], patch: dict[str, Scalar]) -> dict[str, Scalar]:
    """Flat RFC 7396: a null removes its key. Keys come out sorted, so that equal maps have equal bytes."""
    merged = {**metadata, **patch}
    return {key: merged[key] for key in sorted(merged) if merged[key] is not None}
