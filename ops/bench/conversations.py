"""Conversations as a store meets them: each turn made by the code that a worker makes it with."""

from __future__ import annotations

from uuid import uuid4

from ops.bench import texts
from schemas.fingerprint import fingerprint
from schemas.fold import evolve
from schemas.frozen import frozen
from schemas.identity import MINTED_PREFIX
from schemas.inbound import Message
from schemas.replies import Citation, Source, encode_reply
from schemas.session import SessionData
from workers.clock import utc_now
from workers.decision import Draft, completed, customer_message
from workers.generation.protocol import Answer, Retrieval

ANSWER = Answer(
    "You can return an item within 30 days of delivery, as long as it is unused. [1]",
    [
        Citation(
            doc_id="returns",
            title="Returns",
            url=None,
            passage="You can return an item within 30 days of delivery, unused and packed.",
            score=0.7134,
        )
    ],
    confidence=0.874,
)
DRAFT = Draft(
    ANSWER, Retrieval(kb_version="5f2b9c0a"), "extractive", {"lane_wait": 0.412, "retrieve": 14.803, "generate": 0.391}
)
"""With it a reply event has 900 to 1,000 bytes."""

SOURCE_TOPIC = "support.inbound.v1"
SOURCE_PARTITION = 3
FIRST_OFFSET = 1_000_000
QUESTIONS = texts.repeated()


@frozen()
class WrittenTurn:
    """What a worker commits: the state after the turn, and its reply event with the event's bytes."""

    session: SessionData
    event_id: str
    reply: bytes


class Conversation:
    """One customer's conversation, by ids as the ingress and the chat page make them."""

    def __init__(self) -> None:
        self.session_id = f"{MINTED_PREFIX}{uuid4()}"
        self._session: SessionData | None = None
        self._fingerprint = fingerprint(self.session_id, "203.0.113.7", "Mozilla/5.0 (X11; Linux x86_64)")

    def next_turn(self) -> WrittenTurn:
        """The turn after those made before, which must be committed in the same order."""
        before = self._session
        event = message(self.session_id, self._fingerprint)
        offset = FIRST_OFFSET + (before.seq if before else 0)
        source = Source(topic=SOURCE_TOPIC, partition=SOURCE_PARTITION, offset=offset)
        fact = completed(event, customer_message(event), source, before, DRAFT, utc_now())
        self._session = evolve(before, fact)
        return WrittenTurn(self._session, fact.id, encode_reply(fact))


def message(session_id: str, fingerprint_hash: str | None = None) -> Message:
    """What a customer asks next, as the ingress publishes it."""
    now = utc_now().rfc3339
    return Message(
        id=f"m-{uuid4().hex}",
        session_id=session_id,
        text=next(QUESTIONS),
        sent_at=now,
        fingerprint_hash=fingerprint_hash,
    )
