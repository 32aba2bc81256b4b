"""What the turn asks of a generator. Nothing here knows how an answer is made."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from typing import Protocol

from schemas.frozen import frozen
from schemas.replies import Citation, CustomerMessage
from schemas.session import SessionData

Emit = Callable[[str], Awaitable[None]]
"""Streams one piece of the answer to whoever is watching. Best effort: the answer that is returned is the truth."""


@frozen()
class Retrieval:
    """Passages for one question, best first, and the knowledge that they come from."""

    passages: Sequence[Citation] = ()
    kb_version: str | None = None


@frozen()
class Question:
    """What a generator may use. `session` is the state before this turn, None for a session's first."""

    message: CustomerMessage
    session: SessionData | None
    retrieval: Retrieval


@frozen()
class Answer:
    """What goes into the reply. `[n]` in `text` is the n-th of `citations`, from 1."""

    text: str
    citations: list[Citation] = field(default_factory=list)
    confidence: float | None = None
    offers_person: bool = False
    """The generator doesn't know, and says that a person can help."""
    escalates: bool = False
    """The customer asked for a person: the session is marked so that one takes over."""


class Retriever(Protocol):
    async def retrieve(self, text: str) -> Retrieval:
        """Passages for `text`. Raises `workers.errors.TransientError` when a later attempt may succeed."""
        ...


class Generator(Protocol):
    name: str
    """Stands in the reply event as its `generator`."""
    retrieves: bool
    """Whether the turn should retrieve passages first."""

    async def generate(self, question: Question, emit: Emit) -> Answer:
        """Answers. Raises `workers.errors.TransientError` when a later attempt may succeed."""
        ...
