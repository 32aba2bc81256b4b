"""The turn: one record, from its lane's head to the acknowledged reply (DESIGN §5, steps 2 to 6).

1. (the lane's part) The record is the head of its session's lane.
2. Load the session: from L1 while this process owns the home partition, else from the store.
3. Applied already? Republish the stored bytes if it is the session's newest event; done.
4. Retrieve, generate, recheck for a cancel.
5. `commit_turn`: state and reply bytes in one fenced compare-and-set. Stale: reload, go to 3.
6. Publish exactly those bytes and wait for the acknowledgement.
7. (the dispatcher's part) Mark the offset done.

A crash between any two steps is repaired by redelivery, which takes the way of step 3.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
import structlog

from schemas.fold import evolve, source_key
from schemas.headers import header
from schemas.identity import MAX_INBOUND_ID, derived_inbound_id
from schemas.inbound import Message, SessionDelete
from schemas.partition import home_partition
from schemas.publishing import Publisher, PublishError
from schemas.records import reply_record
from schemas.replies import ReplyEvent, SessionDeleted, Source, TurnFailed, decode_reply, encode_reply
from schemas.session import SessionData, ids_pushed_out
from schemas.topics import MAX_EVENT_BYTES, TopicNames
from store.errors import CorruptSession, KeyDestroyed, StoreReplaced, StoreUnavailable
from store.l1 import L1Cache
from store.protocol import Already, Answered, Applied, Fence, Fenced, SessionStore, Stale
from store.seals import NO_KEYS, Seals
from workers.cancellations import Cancellations
from workers.clock import Moment, utc_now
from workers.decision import Draft, completed, customer_message, decided, failed
from workers.deltas import DeltaStream
from workers.errors import NotOwner, PermanentError, StoreForgot
from workers.generation.protocol import Generator, Question, Retrieval, Retriever
from workers.marks import ReplyMarks
from workers.observer import LockReason, Observer
from workers.places import Place, own_place
from workers.records import Taken, changed, erased, opened

log = structlog.get_logger(__name__)

NO_RETRIEVAL = Retrieval()

PUBLISH_WAIT_SECONDS = 0.05
PUBLISH_WAIT_MAX_SECONDS = 5.0
"""Between attempts to publish what is in the store."""
LOGGED_EVERY = 12
"""Of those attempts; about once a minute."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record is answered with `turn.failed`."""

    code: str
    error: str
    attempts: int
    redrivable: bool = True
    """Whether the record is in the dead letter topic, and may come again from there."""


CANCELLED = Failure("cancelled", "The answer was cancelled.", 1, redrivable=False)
ERASED = Failure(
    "erased", "The session was deleted while the message was on its way. Send it again.", 1, redrivable=False
)


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What a turn works with; handed in by the composition root."""

    store: SessionStore
    l1: L1Cache
    publisher: Publisher
    topics: TopicNames
    retriever: Retriever | None
    generator: Generator
    cancellations: Cancellations
    observer: Observer
    marks: ReplyMarks
    seals: Seals = NO_KEYS
    lock_everything: bool = False
    """`ordering=lock`: run every turn under the lock, for comparison and for topics that are not keyed."""


class TurnProcessor:
    """Runs turns. One record of a session at a time: the lanes see to that."""

    def __init__(self, parts: TurnParts, *, now: Callable[[], Moment] = utc_now) -> None:
        self._parts = parts
        self._now = now
        self.partitions = 0
        """How many partitions inbound, replies and deltas have; set before the first turn."""
        self.max_reply_bytes = MAX_EVENT_BYTES
        """What the reply topic takes. It must be known before a turn is written: a reply that is in the store and that
        Kafka refuses would be a gap in the topic for ever."""

    async def run(self, taken: Taken, place: Place | None = None, failure: Failure | None = None) -> None:
        """Answers `taken`, or finds that it was; with a `failure`, tells the customer so, as a turn of its own. `place`
        is what the turn holds while it works.

        Raises:
            TransientError, StoreUnavailable, BrokerUnavailable, LockError: again, later.
            PermanentError, InvalidRecord: never; it belongs into the dead letter topic.
            NotOwner: another worker has the partition.
            StoreForgot, StoreReplaced: the store may have lost writes; repair it first.
        """
        if taken.is_sealed:
            taken = await self._opened(taken)
        if taken.invalid is not None and failure is None:
            raise taken.invalid
        session_id = taken.session_id
        assert session_id is not None, "a record without a session has no turn"
        place = place or own_place()
        reason = self._lock_reason(taken, session_id)
        if reason is None:
            await self._turn(taken, session_id, taken.assignment.fence, place, failure)
            return
        self._parts.observer.lock_path(reason)
        log.debug("lock_path", reason=reason, session_id=session_id, topic=taken.record.topic)
        async with self._parts.store.lock(session_id) as fence:
            await self._turn(taken, session_id, fence, place, failure)

    async def _opened(self, taken: Taken, *, anew: bool = False) -> Taken:
        try:
            return opened(taken, await self._parts.seals.open(taken.record.value or b"", anew=anew))
        except KeyDestroyed:
            return erased(taken)
        except CorruptSession:
            return changed(taken)

    def _lock_reason(self, taken: Taken, session_id: str) -> LockReason | None:
        """Why the partition gives no ownership of this record's session; None where it does."""
        record = taken.record
        if self._parts.lock_everything:
            return "ordering_lock"
        if record.topic != self._parts.topics.inbound:
            return "secondary_topic"
        if record.partition != home_partition(session_id, self.partitions):
            return "null_key" if record.key is None else "foreign_partition"
        return None

    async def _turn(self, taken: Taken, session_id: str, fence: Fence, place: Place, failure: Failure | None) -> None:
        parts = self._parts
        record, source = taken.record, taken.source
        inbound_id = _inbound_id(taken)
        owned = fence.kind == "partition"
        session, unpublished = await self._load(session_id, source, owned)
        while True:
            if session is not None and session.has_applied(source_key(source), record.offset, inbound_id):
                if session.request_id == inbound_id:
                    await self._republish_newest(session_id)
                parts.observer.turn_finished("duplicate", time.monotonic() - taken.taken_at)
                return
            if taken.was_sealed and (session is None or session.deleted):
                # A deletion that did not come through here may have destroyed the key that this process remembers.
                taken = await self._opened(taken, anew=True)
            fact = await self._fact(taken, source, session_id, inbound_id, session, place, failure)
            if fact is None:
                parts.observer.turn_finished("ignored", time.monotonic() - taken.taken_at)
                return
            if unpublished:
                # Whoever wrote last may have died before publishing: the topic shall have every seq in order.
                await self._republish_newest(session_id)
                unpublished = False
            after = evolve(session, fact)
            try:
                reply = encode_reply(fact)
            except orjson.JSONEncodeError as error:
                raise PermanentError("not_storable", f"The reply can't be written as JSON: {error}.") from error
            if len(reply) > self.max_reply_bytes:
                raise PermanentError(
                    "reply_too_large", f"The reply has {len(reply)} bytes; {self.max_reply_bytes} fit."
                )
            outcome = await parts.store.commit_turn(
                after,
                expected_version=session.version if session else 0,
                event_id=fact.id,
                fence=fence,
                reply=reply,
                answers=inbound_id,
                pushed_out=ids_pushed_out(session, after),
            )
            match outcome:
                case Applied():
                    if owned:
                        parts.l1.put(after, taken.assignment.partition, parts.store.ttl_of(after))
                case Already(stored):
                    parts.l1.drop(session_id)
                    fact, reply = decode_reply(stored), stored
                case Answered():
                    parts.observer.turn_finished("duplicate", time.monotonic() - taken.taken_at)
                    return
                case Stale(version):
                    parts.observer.stale_write()
                    parts.l1.drop(session_id)
                    if owned and session is not None and version < session.version and self._lives(session):
                        raise StoreForgot(f"session {session_id} stands at {version}, not at {session.version}")
                    session, unpublished = await self._load(session_id, source, False)
                    continue
                case Fenced(token):
                    parts.observer.fenced_write()
                    parts.l1.drop(session_id)
                    raise NotOwner(session_id, token)
            await self._publish_surely(fact, reply, header(record.headers, "traceparent"))
            parts.observer.turn_finished(fact.type, time.monotonic() - taken.taken_at)
            return

    async def _load(self, session_id: str, source: Source, owned: bool) -> tuple[SessionData | None, bool]:
        """The session, and whether its newest reply may be missing in the topic.

        What the home partition's owner committed and didn't publish is redelivered to the next owner in order, so
        only a session last written by somebody else, or at another home (partitions were added), is in doubt there;
        for a lock holder every session is.
        """
        if owned and (cached := self._parts.l1.get(session_id)) is not None:
            return cached, False
        stored = await self._parts.store.load(session_id)
        if stored is None:
            return None, False
        session = stored.session
        if not owned or stored.writer != "partition":
            return session, True
        moved = not session.applied.keys() <= {source_key(source)}
        return session, moved and not await self._newest_is_of(session_id, source)

    async def _newest_is_of(self, session_id: str, source: Source) -> bool:
        """Whether the session's newest event answers a record of the same partition as `source`."""
        newest = await self._parts.store.newest_event(session_id)
        answered = decode_reply(newest).source if newest is not None else None
        return answered is not None and source_key(answered) == source_key(source)

    def _lives(self, session: SessionData) -> bool:
        """Whether the store should still have the session, by its time to live."""
        return session.expires_at(self._parts.store.ttl_of(session)) * 1000 > self._now().ms

    async def _fact(
        self,
        taken: Taken,
        source: Source,
        session_id: str,
        inbound_id: str,
        session: SessionData | None,
        place: Place,
        failure: Failure | None,
    ) -> ReplyEvent | None:
        if taken.is_erased:
            failure = failure or ERASED
        if failure is not None or taken.event is None:
            failure = failure or Failure("invalid", str(taken.invalid), 1)
            return self._failed(session_id, inbound_id, source, session, failure)
        if isinstance(taken.event, Message):
            await place.work()
            try:
                return await self._answer(taken, source, taken.event, session)
            finally:
                place.wait()
        key_ids = await self._parts.seals.ids_of(session_id) if isinstance(taken.event, SessionDelete) else ()
        return decided(taken.event, source, session, self._now(), key_ids=key_ids)

    async def _answer(self, taken: Taken, source: Source, event: Message, session: SessionData | None) -> ReplyEvent:
        if self._parts.cancellations.requested(event.session_id, event.id):
            return self._failed(event.session_id, event.id, source, session, CANCELLED)
        begun = time.monotonic()
        message = customer_message(event)
        generator = self._parts.generator
        retrieval = NO_RETRIEVAL
        if generator.retrieves and self._parts.retriever is not None:
            retrieval = await self._parts.retriever.retrieve(event.text)
        retrieved = time.monotonic()
        home = home_partition(event.session_id, self.partitions)
        deltas = DeltaStream(self._parts.publisher, self._parts.topics.deltas, home, event.session_id, event.id)
        answer = await generator.generate(Question(message, session, retrieval), deltas.emit)
        await deltas.close()
        if self._parts.cancellations.requested(event.session_id, event.id):
            return self._failed(event.session_id, event.id, source, session, CANCELLED)
        timings = {
            "lane_wait": round((begun - taken.taken_at) * 1000, 3),
            "retrieve": round((retrieved - begun) * 1000, 3),
            "generate": round((time.monotonic() - retrieved) * 1000, 3),
        }
        draft = Draft(answer, retrieval, generator.name, timings)
        return completed(event, message, source, session, draft, self._now())

    def _failed(
        self, session_id: str, inbound_id: str, source: Source, session: SessionData | None, failure: Failure
    ) -> TurnFailed:
        return failed(
            session_id,
            inbound_id,
            source,
            session,
            self._now(),
            code=failure.code,
            error=failure.error,
            attempts=failure.attempts,
            redrivable=failure.redrivable,
        )

    async def _republish_newest(self, session_id: str) -> None:
        reply = await self._parts.store.newest_event(session_id)
        if reply is not None:
            await self._publish_surely(decode_reply(reply), reply, None)
            self._parts.observer.republished()

    async def _publish_surely(self, fact: ReplyEvent, reply: bytes, traceparent: bytes | None) -> None:
        """Publishes the event of a turn that is in the store. There is no giving up here: the topic would lack the
        event for ever. Whatever fails is tried again until it succeeds or the lane is told to end; then the record is
        redelivered, found applied, and its event published.

        Raises:
            StoreReplaced: the store must be repaired first.
        """
        attempts = 0
        while True:
            try:
                await self._publish(fact, reply, traceparent)
                return
            except StoreReplaced:
                raise
            except Exception as error:
                attempts += 1
                self._parts.observer.retried(type(error).__name__)
                if attempts == 1 or attempts % LOGGED_EVERY == 0:
                    log.warning(
                        "publishing_waits",
                        session_id=fact.session_id,
                        attempts=attempts,
                        error=f"{type(error).__name__}: {error}",
                        exc_info=None if isinstance(error, (PublishError, StoreUnavailable)) else error,
                    )
            wait = min(PUBLISH_WAIT_MAX_SECONDS, PUBLISH_WAIT_SECONDS * 2 ** min(attempts, 16))
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  # no secret

    async def _publish(self, fact: ReplyEvent, reply: bytes, traceparent: bytes | None) -> None:
        if isinstance(fact, SessionDeleted):
            # Before anybody hears of it: whoever does may rely on that nothing from before can be read.
            await self._parts.seals.destroy(fact.session_id, fact.keys)
        record = reply_record(
            fact,
            reply,
            topic=self._parts.topics.replies,
            partitions=self.partitions,
            source="/workers",
            traceparent=traceparent,
        )
        position = await self._parts.publisher.publish(record)
        self._parts.marks.published(position)


def _inbound_id(taken: Taken) -> str:
    """Of a record that can't be read any more, as its header says: whoever sent it waits for an answer to that."""
    if taken.event is not None:
        return taken.event.id
    if taken.is_erased and (named := header(taken.record.headers, "ce_id")):
        return named.decode(errors="replace")[:MAX_INBOUND_ID]
    return derived_inbound_id(taken.source.topic, taken.source.partition, taken.source.offset)
