"""Sessions for scripts and other systems: read them, and write them beside the workers, without losing an update.

Each write is an event as well: it is decided from the session as it stands, written under the session's lock and by
compare-and-set, and published on the reply topic, so that a rebuild from the topics knows of it.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from schemas.fold import MESSAGE_COUNT, counters_out_of_range, evolve, fact_fields, metadata_after, number
from schemas.identity import turn_id
from schemas.inbound import MAX_COUNTER, MAX_METADATA_BYTES, Changes, Scalar, is_too_large
from schemas.publishing import Publisher
from schemas.records import reply_record
from schemas.replies import ReplyEvent, SessionDeleted, SessionUpdated, decode_reply, encode_reply
from schemas.session import SessionData, ids_pushed_out
from store.errors import Conflict, LockLost, Unpublished
from store.protocol import Already, Applied, Fence, Fenced, SessionStore, Stale, StoreStats
from store.seals import Seals

UPDATABLE = frozenset({"user_id", "thread_id", "escalated", "metadata", "fingerprint_hash"})

Decide = Callable[[SessionData | None], Awaitable[ReplyEvent]]
"""The event that follows from the session as it stands. Raises `_NothingThere` where none does."""


class _NothingThere(Exception):
    """There is no session to do it to."""


class DirectSessions:
    """The store's interface for whoever is not a worker. `now` gives ms since 1970 and the same instant as RFC 3339."""

    def __init__(
        self,
        store: SessionStore,
        publisher: Publisher,
        *,
        reply_topic: str,
        partitions: int,
        now: Callable[[], tuple[int, str]],
        seals: Seals,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._reply_topic = reply_topic
        self._partitions = partitions
        self._now = now
        self._seals = seals

    async def get(self, session_id: str) -> SessionData | None:
        """The session; None when it never was, expired or was deleted."""
        return await self._store.get(session_id)

    async def exists(self, session_id: str) -> bool:
        return await self._store.exists(session_id)

    async def get_stats(self) -> StoreStats:
        return await self._store.get_stats()

    async def ping(self) -> None:
        """Raises StoreUnavailable unless the store answers."""
        await self._store.ping()

    async def set(self, session: SessionData, ttl_seconds: int | None = None) -> SessionData:
        """Makes a session, or makes an existing one have these fields: user, thread, escalation, fingerprint (where
        they are not None), metadata and message count. `ttl_seconds` is how long it lives after its last activity.

        Raises:
            ValueError: a value can't be in an event, or the metadata is too large (names of keys that go count).
            Others, as `update`.
        """

        async def decide(before: SessionData | None) -> ReplyEvent:
            metadata: dict[str, Scalar] = dict.fromkeys(before.metadata if before else ())
            counted = session.message_count - (before.message_count if before else 0)
            changes = Changes(
                user_id=session.user_id,
                thread_id=session.thread_id,
                escalated=session.escalated,
                metadata={**metadata, **session.metadata},
                fingerprint_hash=session.fingerprint_hash,
                counters={MESSAGE_COUNT: counted} if counted else None,
                ttl_seconds=ttl_seconds,
            )
            return self._updated(session.session_id, before, changes)

        return await self._write(session.session_id, decide, atomic=True)

    async def update(self, session_id: str, updates: dict[str, Any], *, atomic: bool = True) -> SessionData:
        """Changes fields (`UPDATABLE`) of a session, which is made if it is not there; `metadata` is merged, a None in
        it removes the key. All of `updates` takes effect, or nothing.

        `atomic` waits for the session's lock and for everybody else's writes. Without it one attempt is made at once.

        Raises:
            ValueError: a field is unknown, a value can't be in an event, or the metadata would become too large.
            Conflict: not atomic, and somebody else wrote in between.
            LockTimeout, LockLost, LocksUnavailable: the lock could not be had or kept.
            StoreUnavailable: the store does not answer.
            Unpublished: the change is stored, and will be published by the session's next writer.
            PublishError: nothing is stored; what was written before could not be published first.
        """
        if unknown := updates.keys() - UPDATABLE:
            raise ValueError(f"can't update {', '.join(sorted(unknown))}; only {', '.join(sorted(UPDATABLE))}")
        changes = Changes(**updates)
        return await self._write(session_id, self._updating(session_id, changes), atomic=atomic)

    async def increment_counter(self, session_id: str, field: str, delta: int = 1) -> int:
        """Adds to `message_count`, or to a whole number in the metadata, and returns the sum. Never loses an increment.

        Raises as `update`.
        """
        changes = Changes(counters={field: delta})
        after = await self._write(session_id, self._updating(session_id, changes), atomic=True)
        return after.message_count if field == MESSAGE_COUNT else number(after.metadata.get(field))

    async def delete(self, session_id: str) -> bool:
        """Forgets the session and destroys its keys; a tombstone keeps its place. Returns whether there was one.
        Raises as `update`; a deletion that broke off is finished by the next."""
        if not await self._store.exists(session_id):
            await self._republish_newest(session_id)
            return False

        async def decide(before: SessionData | None) -> ReplyEvent:
            if before is None or before.deleted:
                raise _NothingThere
            key_ids = await self._seals.ids_of(session_id)
            return SessionDeleted(**self._fields(session_id, before), applied=before.applied, keys=key_ids)

        try:
            await self._write(session_id, decide, atomic=True)
        except _NothingThere:
            return False
        return True

    def _updating(self, session_id: str, changes: Changes) -> Decide:
        async def decide(before: SessionData | None) -> ReplyEvent:
            return self._updated(session_id, before, changes)

        return decide

    def _updated(self, session_id: str, before: SessionData | None, changes: Changes) -> SessionUpdated:
        if counters_out_of_range(before, changes):
            raise ValueError(f"a counter has at most {MAX_COUNTER}")
        if is_too_large(metadata_after(before, changes)):
            raise ValueError(f"a session's metadata has at most {MAX_METADATA_BYTES} bytes as JSON")
        return SessionUpdated(**self._fields(session_id, before), changes=changes)

    def _fields(self, session_id: str, before: SessionData | None) -> dict[str, Any]:
        now_ms, completed_at = self._now()
        inbound_id = f"direct-{uuid4()}"
        event_id = turn_id(session_id, inbound_id)
        return {
            **fact_fields(event_id, session_id, inbound_id, None, before, now_ms, completed_at),
            "actor": "system",
        }

    async def _write(self, session_id: str, decide: Decide, *, atomic: bool) -> SessionData:
        if not atomic:
            fence = Fence("direct", await self._store.next_fence())
            return await self._write_under(fence, session_id, decide, again=False)
        async with self._store.lock(session_id) as fence:
            return await self._write_under(fence, session_id, decide, again=True)

    async def _write_under(self, fence: Fence, session_id: str, decide: Decide, *, again: bool) -> SessionData:
        """Decides, writes and publishes; where somebody else was faster, `again`, or raises Conflict."""
        while True:
            stored = await self._store.load(session_id)
            before = stored.session if stored else None
            fact = await decide(before)
            reply = encode_reply(fact)
            # As readers of the topic have it. One that they can't read would stop every rebuild and the next writer.
            fact = decode_reply(reply)
            after = evolve(before, fact)
            await self._republish_newest(session_id)
            outcome = await self._store.commit_turn(
                after,
                expected_version=before.version if before else 0,
                event_id=fact.id,
                fence=fence,
                reply=reply,
                pushed_out=ids_pushed_out(before, after),
            )
            match outcome:
                case Applied() | Already():
                    written = outcome.reply if isinstance(outcome, Already) else reply
                    try:
                        await self._publish(fact, written)
                    except Exception as error:
                        raise Unpublished(f"{session_id} is written, its event is not published: {error}") from error
                    return after
                case Fenced() if again:
                    raise LockLost(f"Session {session_id} was written under a later lock.")
                case Stale() | Fenced():
                    if not again:
                        raise Conflict(f"Session {session_id} was written by somebody else in between.")

    async def _republish_newest(self, session_id: str) -> None:
        """Whoever wrote last may have died before publishing: the topic shall have every seq in order."""
        newest = await self._store.newest_event(session_id)
        if newest is not None:
            await self._publish(decode_reply(newest), newest)

    async def _publish(self, fact: ReplyEvent, value: bytes) -> None:
        if isinstance(fact, SessionDeleted):
            await self._seals.destroy(fact.session_id, fact.keys)
        record = reply_record(fact, value, topic=self._reply_topic, partitions=self._partitions, source="/store/direct")
        await self._publisher.publish(record)
