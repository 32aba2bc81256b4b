"""A worker and a Kafka that fit into a test of the ingress."""

import asyncio
from collections.abc import Callable

from ingress.access import SessionAccess
from ingress.client_address import TrustedProxies
from ingress.delivery import Delivery
from ingress.facts import Facts
from ingress.fingerprints import Client, FingerprintMode, Fingerprints
from ingress.homes import Homes
from ingress.inbound import InboundPublisher
from ingress.tokens import SessionTokens
from schemas.fold import evolve
from schemas.inbound import InboundEvent, Message, decode_inbound
from schemas.publishing import Position, Record
from schemas.replies import ReplyEvent, Source, encode_reply
from schemas.session import SessionData
from schemas.topics import TopicNames
from store.memory import MemorySessionStore
from store.protocol import Fence
from workers.clock import Moment
from workers.decision import Draft, completed, customer_message, decided, failed
from workers.errors import PermanentError
from workers.generation.protocol import Answer, Retrieval

SECRET = "0123456789abcdef" * 4
AT = "2026-01-02T03:04:05.678Z"
MOMENT = Moment(1_000, AT)
PARTITIONS = 12
WAIT_SECONDS = 0.05
ALICE = Client("192.0.2.1", "Alice's browser")
MALLORY = Client("198.51.100.66", "Mallory's browser")


class Pipeline:
    """Kafka, worker and store in one: what is published is answered, stored and delivered, unless told otherwise."""

    def __init__(self, fingerprinting: FingerprintMode = "off", trusted_proxies: tuple[str, ...] = ()) -> None:
        self.store = MemorySessionStore(ttl_seconds=3_600)
        self.delivery = Delivery()
        self.published: list[Record] = []
        self.failure: Exception | None = None
        self.answers = True
        self.fails_turns = False
        self.accepted = 0
        self.now = 1_767_323_045.0
        self.tokens = SessionTokens(SECRET, ttl_seconds=3_600, clock=lambda: self.now)
        inbound = InboundPublisher(self, TopicNames(), Homes(PARTITIONS), lambda: AT, self._accept)
        self.inbound = inbound
        self.facts = Facts(inbound, self.delivery, self.store)
        self.mismatches: list[str] = []
        self.fingerprints = Fingerprints(fingerprinting, TrustedProxies(trusted_proxies), self.store, self)
        self.access = SessionAccess(self.tokens, self.facts, self.store, WAIT_SECONDS, self.fingerprints)
        self.before_answer: Callable[[InboundEvent], None] = lambda event: None

    def _accept(self) -> None:
        self.accepted += 1

    def fingerprint_mismatch(self, mode: str) -> None:
        self.mismatches.append(mode)

    async def publish(self, record: Record) -> Position:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.published.append(record)
        offset = len(self.published) - 1
        if self.answers:
            event = decode_inbound(record.value, record.key, record.topic, record.partition or 0, offset)
            self.before_answer(event)
            await self.decide(event)
        return Position(record.topic, record.partition or 0, offset)

    async def decide(self, event: InboundEvent) -> None:
        """The turn of `event`."""
        stored = await self.store.load(event.session_id)
        session = stored.session if stored else None
        fact = self._fact(event, session)
        if fact is None:
            return
        reply = encode_reply(fact)
        await self.store.commit_turn(
            evolve(session, fact),
            expected_version=session.version if session else 0,
            event_id=fact.id,
            fence=Fence("partition", 1),
            reply=reply,
        )
        self.delivery.reply(event.session_id.encode(), reply)

    def _fact(self, event: InboundEvent, session: SessionData | None) -> ReplyEvent | None:
        source = Source(topic=TopicNames().inbound, partition=0, offset=len(self.published))
        try:
            if not isinstance(event, Message):
                return decided(event, source, session, MOMENT)
            if self.fails_turns:
                raise PermanentError("x", "The message could not be answered.")
        except PermanentError as error:
            where = event.session_id, event.id, source, session
            return failed(*where, MOMENT, code=error.reason, error=str(error), attempts=1)
        draft = Draft(Answer(f"Answer to {event.text}"), Retrieval(), "scripted", {})
        return completed(event, customer_message(event), source, session, draft, MOMENT)
