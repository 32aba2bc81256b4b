"""Passages for a question: embed it, search the newest index."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from workers.errors import TransientError
from workers.generation.protocol import Retrieval
from workers.retrieval.embedder import Vectors
from workers.retrieval.errors import EmbedderClosed
from workers.retrieval.index import KnowledgeIndex

PASSAGES = 6
_SEARCH_INLINE_BELOW = 10_000
"""Passages; a search among fewer takes under a millisecond, less than handing it to a thread under load."""


class QuestionEmbedder(Protocol):
    async def embed(self, text: str) -> Vectors: ...


class KnowledgeRetriever:
    """A `workers.generation.protocol.Retriever` over whichever index `current` returns at the time."""

    def __init__(self, embedder: QuestionEmbedder, current: Callable[[], KnowledgeIndex], k: int = PASSAGES) -> None:
        self._embedder = embedder
        self._current = current
        self._k = k

    async def retrieve(self, text: str) -> Retrieval:
        """Up to `k` passages, best first; none from empty knowledge.

        Raises:
            TransientError: the text could not be embedded now.
        """
        try:
            vector = await self._embedder.embed(text)
        except (EmbedderClosed, RuntimeError, MemoryError) as error:
            raise TransientError(f"the question could not be embedded: {error}") from error
        index = self._current()
        rows = vector.reshape(1, -1)
        if len(index) < _SEARCH_INLINE_BELOW:
            found = index.search(rows, self._k)
        else:
            found = await asyncio.to_thread(index.search, rows, self._k)
        return Retrieval(passages=found[0], kb_version=index.kb_version)
