"""The knowledge of one moment, searchable. Immutable: a change builds another one beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from schemas.knowledge import kb_version
from schemas.replies import Citation

PASSAGES_PER_DOCUMENT = 2
"""Of one document, so that a long one does not crowd out the others."""


@dataclass(frozen=True, slots=True)
class IndexedDocument:
    """A document ready to be indexed; row n of `vectors` (float32, length 1) belongs to passage n."""

    doc_id: str
    title: str
    url: str | None
    revision: str
    passages: tuple[str, ...]
    vectors: NDArray[np.float32]


class KnowledgeIndex:
    """Exact search by cosine over every passage. Safe to search from several threads."""

    def __init__(self, documents: Sequence[IndexedDocument], dimensions: int) -> None:
        """Builds; blocks for a time that grows with the passages (a fraction of a second for 100,000)."""
        ordered = sorted(documents, key=lambda document: document.doc_id)
        self._passages = [(document, passage) for document in ordered for passage in document.passages]
        self._index = faiss.IndexFlatIP(dimensions)
        if self._passages:
            self._index.add(np.ascontiguousarray(np.vstack([document.vectors for document in ordered])))
        self.documents = len(ordered)
        self.kb_version = kb_version({document.doc_id: document.revision for document in ordered})

    def __len__(self) -> int:
        """How many passages it has."""
        return len(self._passages)

    def search(self, vectors: NDArray[np.float32], k: int) -> list[list[Citation]]:
        """For each row (of length 1) up to `k` passages, best first, with their cosine as score.

        At most `PASSAGES_PER_DOCUMENT` of one document, and no text twice.
        """
        found: list[list[Citation]] = []
        for vector in vectors:
            fetch = min(4 * k, len(self._passages))
            chosen = self._search_one(vector, k, fetch)
            while len(chosen) < k and fetch < len(self._passages):
                fetch = min(4 * fetch, len(self._passages))
                chosen = self._search_one(vector, k, fetch)
            found.append(chosen)
        return found

    def _search_one(self, vector: NDArray[np.float32], k: int, fetch: int) -> list[Citation]:
        if not fetch:
            return []
        scores, rows = self._index.search(vector.reshape(1, -1), fetch)
        chosen: list[Citation] = []
        per_document: dict[str, int] = {}
        texts: set[str] = set()
        for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True):
            document, passage = self._passages[row]
            taken = per_document.get(document.doc_id, 0)
            if taken == PASSAGES_PER_DOCUMENT or passage in texts:
                continue
            per_document[document.doc_id] = taken + 1
            texts.add(passage)
            chosen.append(
                Citation(
                    doc_id=document.doc_id,
                    title=document.title,
                    url=document.url,
                    passage=passage,
                    score=round(max(-1.0, min(1.0, score)), 4),
                )
            )
            if len(chosen) == k:
                break
        return chosen
