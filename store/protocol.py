"""What the pipeline asks of a session store. `store.memory` and `store.redis` keep these promises alike."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import Literal, Protocol

from schemas.frozen import frozen
from schemas.session import SessionData

FenceKind = Literal["partition", "lock", "direct"]


@frozen()
class Fence:
    """Proof of a right to write, from `SessionStore.next_fence`: later rights have larger tokens.

    A session refuses a token smaller than the largest that it has seen of the same kind. The owner of the home
    partition, the holder of a lock and a direct writer without one are kinds of their own: between them the version
    decides.
    """

    kind: FenceKind
    token: int


@frozen()
class Applied:
    """The write took place."""


@frozen()
class Already:
    """This very event was written before (a lost response, retried); `reply` is what was stored then."""

    reply: bytes


@frozen()
class Answered:
    """The inbound id was answered before, longer ago than the session itself remembers: there is nothing to do."""


@frozen()
class Stale:
    """Somebody else advanced the session to `version`: reload and decide anew."""

    version: int


@frozen()
class Fenced:
    """A later owner, with `token`, has written: the caller no longer owns the session and must stop."""

    token: int


CommitOutcome = Applied | Already | Answered | Stale | Fenced
RestoreOutcome = Applied | Stale | Fenced
PushedOut = Sequence[tuple[str, int]]
"""Inbound ids that left a session's recent ones, each with the time of that in ms since 1970."""


@frozen()
class Stored:
    """A session as it was read, and by which kind of right it was written last."""

    session: SessionData
    writer: FenceKind


@frozen()
class StoreStats:
    """What `/` and `/health` show of a store."""

    type: str
    connected: bool
    details: dict[str, str | int | float | bool] = field(default_factory=dict)


@frozen()
class Restorable:
    """What a store lost of a session: its state, with its newest reply events, oldest first."""

    session: SessionData
    event_id: str
    """Of the newest reply event."""
    events: Sequence[bytes]
    ttl_seconds: float
    """How long it shall live from now on."""
    pushed_out: PushedOut = ()


class SessionStore(Protocol):
    """Sessions, each with its newest reply events, for a limited time after their last activity.

    Every method may raise `StoreUnavailable`, and where loss is watched for `StoreReplaced`; every write is safe to
    repeat.
    """

    async def load(self, session_id: str) -> Stored | None:
        """The session, a tombstone included; None when it never was, or expired."""
        ...

    async def get(self, session_id: str) -> SessionData | None:
        """The session; None when it never was, expired or was deleted."""
        ...

    async def exists(self, session_id: str) -> bool: ...

    async def commit_turn(
        self,
        session: SessionData,
        *,
        expected_version: int,
        event_id: str,
        fence: Fence,
        reply: bytes,
        answers: str = "",
        pushed_out: PushedOut = (),
    ) -> CommitOutcome:
        """Writes `session` and appends `reply`, the bytes of the reply event `event_id`, in one step, if the stored
        version is `expected_version` (0: none is stored), and of the same epoch where the write continues one. The
        session's time to live starts anew.

        `answers` is the inbound id that the event answers: one that was pushed out of the session's recent ids in the
        last `EARLIER_IDS_MS` is not answered again. `pushed_out` are those that this write pushes out.
        """
        ...

    async def newest_event(self, session_id: str) -> bytes | None:
        """The bytes of the session's newest reply event."""
        ...

    async def events(self, session_id: str, after_seq: int = 0) -> Sequence[bytes]:
        """The session's newest reply events (at most `schemas.session.RECENT_EVENTS`), oldest first, of those that
        follow `after_seq`; possibly a few older ones before them."""
        ...

    async def restore(self, lost: Sequence[Restorable], fence: Fence) -> list[RestoreOutcome]:
        """Puts back what the store lost; per session whether it did. Some hundreds at once share round trips.

        `Stale`: the store has this version or a later one. `Fenced`: a later owner has written, and nothing was put
        back.
        """
        ...

    async def load_whole(self, session_ids: Sequence[str]) -> list[tuple[SessionData | None, Sequence[bytes]]]:
        """Each session, a tombstone included, with all of its events that are stored. Some hundreds at once share round
        trips."""
        ...

    def ttl_of(self, session: SessionData) -> float:
        """How many seconds `session` lives after its last activity."""
        ...

    async def accept_server(self) -> str:
        """Goes on with the server that answers now, after `StoreReplaced`.

        Returns a name for what it is: another one after a restart, a failover or a flush. Empty where that can't be
        told, or can't happen.
        """
        ...

    async def next_fence(self) -> int:
        """A token larger than every one given before."""
        ...

    def lock(self, session_id: str) -> AbstractAsyncContextManager[Fence]:
        """Excludes every other holder of the session's lock until its lease ends; what a holder writes after that is
        refused, because the next one has a larger token.

        Raises:
            LockTimeout: on entry, after the configured attempts.
            LocksUnavailable: on entry, when too few lock nodes answer.
            LockingDisabled: on entry, when locks are switched off.
            LockLost: on exit, when the lease had ended before.
        """
        ...

    def describe_locks(self) -> dict[str, int | float | bool]:
        """For health reports: whether locks are `enabled`, how many this process holds (`active`)."""
        ...

    async def test_locks(self) -> None:
        """Takes and gives back a lock that nobody else wants; nothing where locks are switched off.

        Raises:
            LocksUnavailable: too few lock nodes answer.
        """
        ...

    async def save_progress(self, offsets: Mapping[str, int]) -> None:
        """Per `topic:partition`: all records below this offset are done. Never goes back."""
        ...

    async def progress(self, partitions: Sequence[str]) -> dict[str, int]:
        """What `save_progress` has for these `topic:partition`; those it never saw are absent."""
        ...

    async def get_stats(self) -> StoreStats:
        """Never raises: a store that is away says so."""
        ...

    async def ping(self) -> None:
        """Raises StoreUnavailable unless the store answers."""
        ...

    async def close(self) -> None: ...
