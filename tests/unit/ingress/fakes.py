"""A worker and a Kafka that fit into a test of the ingress."""

import asyncio
from collections.abc import Callable

from ingress.access import SessionAccess
from ingress.delivery import Delivery
from ingress.facts import Facts
from ingress.inbound import InboundPublisher
from ingress.tokens import SessionTokens
from schemas.inbound import Changes, InboundEvent, Message, SessionUpdate, decode_inbound
from schemas.publishing import Position, Record
from schemas.replies import CustomerMessage, Reply, ReplyEvent, SessionUpdated, TurnCompleted, TurnFailed, encode_reply
from schemas.session import SessionData
from schemas.topics import TopicNames
from store.memory import MemorySessionStore
from store.protocol import Fence

SECRET = "0123456789abcdef" * 4
AT = "2026-01-02T03:04:05.678Z"
PARTITIONS = 12


class Pipeline:
    """Kafka, worker and store in one: what is published is answered, stored and delivered, unless told otherwise."""

    def __init__(self) -> None:
        self.store = MemorySessionStore(ttl_seconds=3_600)
        self.delivery = Delivery()
        self.published: list[Record] = []
        self.failure: Exception | None = None
        self.answers = True
        self.fails_turns = False
        self.accepted = 0
        self.now = 1_767_323_045.0
        self.tokens = SessionTokens(SECRET, ttl_seconds=3_600, clock=lambda: self.now)
        inbound = InboundPublisher(self, TopicNames(), PARTITIONS, lambda: AT, self._accept)
        self.inbound = inbound
        self.facts = Facts(inbound, self.delivery, self.store)
        self.access = SessionAccess(self.tokens, self.facts, self.store, claim_wait_seconds=0.05)
        self.before_answer: Callable[[InboundEvent], None] = lambda event: None

    def _accept(self) -> None:
        self.accepted += 1

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
        session = await self.store.get(event.session_id)
        seq = session.seq + 1 if session else 1
        fields = {
            "id": f"turn-{event.id}",
            "session_id": event.session_id,
            "epoch": 1_000,
            "seq": seq,
            "version": seq,
            "inbound_id": event.id,
            "source": None,
            "actor": "agent",
            "completed_at": AT,
        }
        claimed = session.claimed if session else False
        fact: ReplyEvent
        if isinstance(event, SessionUpdate):
            wins = bool(event.changes.claimed) and not claimed
            fact = SessionUpdated(**fields, changes=Changes(claimed=True if wins else None))  # type: ignore[arg-type]
            claimed = claimed or wins
        elif self.fails_turns:
            fact = TurnFailed(**fields, code="x", error="The message could not be answered.")  # type: ignore[arg-type]
        else:
            assert isinstance(event, Message)
            fact = TurnCompleted(
                **fields,  # type: ignore[arg-type]
                message=CustomerMessage(id=event.id, text=event.text),
                reply=Reply(text=f"Answer to {event.text}", generator="scripted"),
            )
        reply = encode_reply(fact)
        after = SessionData(session_id=event.session_id, epoch=1_000, seq=seq, version=seq, claimed=claimed)
        await self.store.commit_turn(
            after, expected_version=seq - 1, event_id=fact.id, fence=Fence("partition", 1), reply=reply
        )
        self.delivery.reply(event.session_id.encode(), reply)
