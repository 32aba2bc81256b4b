"""Snapshots: a session as it stood, in a compacted topic, so that a rebuild needs only the reply events after it.

A record's key is the session's id. A key that no session can have, `#n`, holds a coverage mark instead: all reply
events of partition n below its offset are in the snapshots before the mark. A record without a value: the session has
expired.
"""

from dataclasses import field
from typing import Literal

import orjson
from pydantic import TypeAdapter

from schemas.frozen import frozen
from schemas.identity import SessionId
from schemas.session import SessionData


@frozen(kw_only=True)
class Snapshot:
    """One session with its newest events. `schema_version` is this form's; its state and events have their own."""

    schema_version: Literal[1] = 1
    session_id: SessionId
    state: dict[str, object]
    """As `SessionData.to_dict`."""
    event_id: str
    """Of the newest reply event."""
    events: list[str] = field(default_factory=list)
    """The newest reply events as they were published, oldest first."""

    @property
    def session(self) -> SessionData:
        return SessionData.from_dict(self.state)


@frozen(kw_only=True)
class Coverage:
    """What the snapshots before it cover: the reply events of `topic` (in this life of it,
    `schemas.incarnation`) and `partition` below `offset`."""

    schema_version: Literal[1] = 1
    topic: str
    partition: int
    offset: int


_SNAPSHOT = TypeAdapter(Snapshot)
_COVERAGE = TypeAdapter(Coverage)


def snapshot_of(session: SessionData, event_id: str, events: list[bytes], max_bytes: int) -> bytes:
    """The record value; of the events as many of the newest as `max_bytes` has room for."""
    texts: list[str] = []
    left = max_bytes
    for event in reversed(events):
        # Quotes are escaped.
        left -= len(event) + event.count(b'"') + event.count(b"\\") + 3
        if left < 0:
            break
        texts.append(event.decode())
    return orjson.dumps(
        Snapshot(session_id=session.session_id, state=session.to_dict(), event_id=event_id, events=texts[::-1])
    )


def decode_snapshot(value: bytes) -> Snapshot:
    """Raises pydantic.ValidationError: it is none, or of a newer form."""
    return _SNAPSHOT.validate_json(value)


def coverage_key(partition: int) -> bytes:
    return b"#%d" % partition


def is_coverage(key: bytes) -> bool:
    return key.startswith(b"#")


def encode_coverage(coverage: Coverage) -> bytes:
    return orjson.dumps(coverage)


def decode_coverage(value: bytes) -> Coverage:
    """Raises pydantic.ValidationError."""
    return _COVERAGE.validate_json(value)
