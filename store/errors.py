"""Errors of the session store."""


class StoreError(Exception):
    """Anything that the store can't do."""


class StoreUnavailable(StoreError):
    """The store does not answer. What was asked may or may not have been done; every write is safe to repeat."""


class CorruptSession(StoreError):
    """Stored bytes that are no session: written by something else, or by an incompatible version."""


class LockError(StoreError):
    """A session lock could not be had or kept."""


class LockTimeout(LockError):
    """Somebody else held the lock during all attempts."""


class LockLost(LockError):
    """The lease ended while the lock was held; nothing written after that counts."""
