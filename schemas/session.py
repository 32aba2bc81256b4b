"""The state of a session, as `schemas.fold.evolve` makes it from reply events."""

from dataclasses import asdict, field
from dataclasses import fields as fields_of
from datetime import datetime
from hmac import compare_digest
from typing import Any, Self

import orjson

from schemas.fingerprint import fingerprint
from schemas.frozen import frozen
from schemas.inbound import Scalar

RECENT_IDS = 32
"""How many inbound ids the session itself has, to recognise one that comes again. Earlier ones are kept beside it."""
EARLIER_IDS_MS = 24 * 60 * 60 * 1000
"""How long an inbound id is remembered after it left `recent_ids`, while the session lives."""
RECENT_EVENTS = 50
"""How many of a session's newest reply events the store keeps beside its state."""


@frozen(kw_only=True)
class SessionData:
    """One customer conversation. Immutable: `evolve` makes the next state.

    Times are RFC 3339 in UTC and come from events. A deleted session is a tombstone: `deleted` is true and only
    `session_id`, `epoch`, `version`, `seq`, `request_id`, `applied` and `updated_at` mean anything.
    """

    session_id: str
    epoch: int
    """When this life of the session began, in ms since 1970; grows over a deletion or an expiry."""
    seq: int
    """The newest reply event of this epoch, from 1."""
    version: int
    """Grows by one with every change; what the store compares before it writes."""
    user_id: str | None = None
    thread_id: str | None = None
    message_count: int = 0
    escalated: bool = False
    claimed: bool = False
    """A token was issued for this session, so it can't be opened without one."""
    metadata: dict[str, Scalar] = field(default_factory=dict)
    request_id: str | None = None
    """The inbound id that the newest event answers."""
    fingerprint_hash: str | None = None
    created_at: str = ""
    updated_at: str = ""
    last_activity: str = ""
    applied: dict[str, int] = field(default_factory=dict)
    """Per `topic:partition` of inbound records: the highest offset applied."""
    recent_ids: tuple[str, ...] = ()
    """The inbound ids answered last, oldest first, at most `RECENT_IDS`."""
    ttl_seconds: int | None = None
    """How long the session lives after its last activity; None: as long as the store's setting says."""
    deleted: bool = False

    def create_fingerprint(self, ip: str, user_agent: str) -> str:
        """What `fingerprint_hash` is for a client at this address with this user agent."""
        return fingerprint(self.session_id, ip, user_agent)

    def verify_fingerprint(self, ip: str, user_agent: str) -> bool:
        """Whether the client looks like the one that the session began with; true while none is known."""
        return self.fingerprint_hash is None or compare_digest(
            self.fingerprint_hash.encode(), self.create_fingerprint(ip, user_agent).encode()
        )

    def expires_at(self, ttl_seconds: float) -> float:
        """When the session is gone, in seconds since 1970; `ttl_seconds` is how long it lives after its last change if
        it does not say so itself."""
        changed = datetime.fromisoformat(self.updated_at.replace("Z", "+00:00")).timestamp()
        return changed + (self.ttl_seconds or ttl_seconds)

    def has_applied(self, source: str, offset: int, inbound_id: str) -> bool:
        """Whether the record was applied already: by where it stands, or by its id (a duplicate, or a redrive)."""
        return offset <= self.applied.get(source, -1) or inbound_id in self.recent_ids

    def updated_ms(self) -> int:
        """When it changed last, in ms since 1970."""
        return round(datetime.fromisoformat(self.updated_at.replace("Z", "+00:00")).timestamp() * 1000)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The session with these fields; unknown ones (of a newer version) are ignored."""
        known = {name: fields[name] for name in _FIELDS if name in fields}
        known["recent_ids"] = tuple(known.get("recent_ids", ()))
        return cls(**known)

    def to_json(self) -> bytes:
        """The canonical form: equal sessions give equal bytes."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        return cls.from_dict(orjson.loads(data))


def ids_pushed_out(before: SessionData | None, after: SessionData) -> tuple[tuple[str, int], ...]:
    """The inbound ids that `before` had among its recent ones and `after`, its next state, has no more; with the time
    of that, in ms since 1970. None where a new life begins."""
    if before is None or before.epoch != after.epoch or after.deleted or len(before.recent_ids) < RECENT_IDS:
        return ()
    if before.recent_ids[0] == after.recent_ids[0]:
        return ()
    return ((before.recent_ids[0], after.updated_ms()),)


_FIELDS = tuple(each.name for each in fields_of(SessionData))
