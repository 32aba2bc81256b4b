"""Errors of the session store."""


class StoreError(Exception):
    """Anything that the store can't do."""


class StoreUnavailable(StoreError):
    """The store does not answer. What was asked may or may not have been done; every write is safe to repeat."""


class StoreReplaced(StoreError):
    """Another server answers than before, and it may lack acknowledged writes: repair, then `accept_server`."""


class CorruptSession(StoreError):
    """Stored bytes that are no session: written by something else, or by an incompatible version."""


class WrongKey(StoreUnavailable):
    """What is stored can't be decrypted with the keys that are set; with the right ones it can."""


class KeyDestroyed(StoreError):
    """What was sealed can't be read by anybody any more: its session was deleted."""


class KeysUnavailable(StoreUnavailable):
    """The keys of sessions can't be read or written at the moment."""


class Conflict(StoreError):
    """Somebody else wrote in between, and the write was not to be tried again."""


class Unpublished(StoreError):
    """The write is stored, but the topic does not have its event yet: the session's next writer publishes it. Don't
    write it again."""


class LockError(StoreError):
    """A session lock could not be had or kept."""


class LockTimeout(LockError):
    """Somebody else held the lock during all attempts."""


class LockLost(LockError):
    """The lease ended while the lock was held; nothing written after that counts."""


class LockingDisabled(LockError):
    """Locks are switched off (SESSION_LOCKING_ENABLED)."""


class LocksUnavailable(LockError, StoreUnavailable):
    """Fewer lock nodes answer than a quorum needs."""
