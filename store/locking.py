"""Session locks: how long they are held and waited for, whichever store gives them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from store.errors import LockingDisabled
from store.protocol import Fence


@dataclass(frozen=True, slots=True)
class LockSettings:
    """Times in seconds."""

    lease_seconds: float = 10.0
    retry_attempts: int = 3
    """Each waits `lease_seconds` at most."""
    node_timeout_seconds: float = 3.0
    """A node that hasn't answered by then counts as not answering."""

    @property
    def patience_seconds(self) -> float:
        return self.lease_seconds * self.retry_attempts


DEFAULT_LOCK = LockSettings()


@asynccontextmanager
async def no_locks() -> AsyncIterator[Fence]:
    """The lock of a store that has none. Raises LockingDisabled."""
    raise LockingDisabled("Session locks are switched off (SESSION_LOCKING_ENABLED=false).")
    yield  # a generator, though nobody gets here
