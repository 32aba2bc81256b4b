"""Sessions and commits as the contract tests write them."""

from dataclasses import replace

import orjson

from schemas.session import SessionData
from store.protocol import Applied, CommitOutcome, Fence, FenceKind, SessionStore, Stale

AT = "2026-01-02T03:04:05.678Z"


def session(session_id: str = "s1", *, seq: int = 1, version: int | None = None, epoch: int = 1_000) -> SessionData:
    return SessionData(
        session_id=session_id,
        epoch=epoch,
        seq=seq,
        version=version or seq,
        message_count=seq,
        metadata={"ünïcode": "✓", "n": seq},
        recent_ids=(f"m{seq}",),
        applied={"support.inbound.v1:3": seq},
        updated_at=AT,
    )


def tombstone(after: SessionData) -> SessionData:
    return SessionData(
        session_id=after.session_id,
        epoch=after.epoch,
        seq=after.seq + 1,
        version=after.version + 1,
        applied=after.applied,
        deleted=True,
    )


def reply_of(session: SessionData, mark: str = "") -> bytes:
    """Bytes that stand for the reply event that made this state."""
    return orjson.dumps({"epoch": session.epoch, "seq": session.seq, "mark": mark})


async def commit(
    store: SessionStore,
    after: SessionData,
    *,
    token: int = 1,
    kind: FenceKind = "partition",
    expected: int | None = None,
    event_id: str | None = None,
    mark: str = "",
) -> CommitOutcome:
    """Commits `after` over the version before it, unless `expected` says otherwise."""
    return await store.commit_turn(
        after,
        expected_version=after.version - 1 if expected is None else expected,
        event_id=event_id or f"event-{after.session_id}-{after.version}",
        fence=Fence(kind, token),
        reply=reply_of(after, mark),
    )


async def commit_up_to(store: SessionStore, seq: int, session_id: str = "s1") -> SessionData:
    """A session of `seq` turns."""
    for n in range(1, seq + 1):
        last = session(session_id, seq=n)
        await commit(store, last)
    return last


async def increment(store: SessionStore, session_id: str, writer: str, fence: Fence) -> int:
    """Adds one to `message_count` by compare-and-set, however often it must try. Returns the tries."""
    tries = 0
    while True:
        tries += 1
        stored = await store.load(session_id)
        before = stored.session if stored else None
        version = before.version if before else 0
        after = (
            replace(before, seq=before.seq + 1, version=version + 1, message_count=before.message_count + 1)
            if before
            else SessionData(session_id=session_id, epoch=1, seq=1, version=1, message_count=1)
        )
        outcome = await store.commit_turn(
            after, expected_version=version, event_id=writer, fence=fence, reply=reply_of(after, writer)
        )
        if isinstance(outcome, Applied):
            return tries
        assert isinstance(outcome, Stale), outcome
