"""Which sessions a replay is about."""

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from zlib import crc32

import orjson

from schemas.session import SessionData


@dataclass(frozen=True, slots=True)
class Selection:
    """All conditions hold; an empty one selects every session."""

    sessions: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    """Of the reply topic: sessions that have their events there."""
    since: datetime | None = None
    """Sessions that changed then or later."""
    until: datetime | None = None
    """Sessions that changed before then, for the last time."""
    sample: float = 1.0
    """This share of the sessions, always the same ones."""
    _until_hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_until_hash", int(self.sample * 2**32))

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    @property
    def name(self) -> str:
        """The same for the same selection."""
        parts = [
            sorted(self.sessions),
            sorted(self.users),
            sorted(self.partitions),
            self.since.isoformat() if self.since else None,
            self.until.isoformat() if self.until else None,
            self.sample,
        ]
        return blake2b(orjson.dumps(parts), digest_size=6).hexdigest()

    def takes_id(self, session_id: str) -> bool:
        """What can be said before the session is known."""
        if self.sessions and session_id not in self.sessions:
            return False
        return self.sample >= 1.0 or crc32(session_id.encode()) < self._until_hash

    def takes(self, session: SessionData) -> bool:
        """Whether the session, as it was rebuilt or as it is live, is meant; its id is known to be."""
        if self.users and session.user_id not in self.users:
            return False
        if self.since is None and self.until is None:
            return True
        changed = datetime.fromisoformat(session.updated_at.replace("Z", "+00:00"))
        return (self.since is None or changed >= self.since) and (self.until is None or changed < self.until)
