"""The fold of the knowledge topic: which documents there are after the records so far. No Kafka in here."""

import binascii
from collections import Counter
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from schemas.errors import explain
from schemas.knowledge import DocumentUpserted, decode_document, decode_embedding
from workers.retrieval.index import IndexedDocument, KnowledgeIndex

_LENGTH_TOLERANCE = 1e-3


class Outcome(Enum):
    """What one record did."""

    UPSERTED = "upserted"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    INVALID = "invalid"
    """Not a document of this schema."""
    REFUSED = "refused"
    """A document that another embedding model made."""


@dataclass(frozen=True, slots=True)
class Change:
    """One record's effect. `detail` says what to do where it was not taken; `affects_index` whether to
    rebuild."""

    outcome: Outcome
    doc_id: str | None
    affects_index: bool
    detail: str = ""


class _NotTaken(Exception):
    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class KnowledgeState:
    """Documents by id. Takes any bytes: a record that is no good is counted and reported, never an exception.

    A bad record also removes the good one before it, because compaction would: workers that read the topic
    before and after compaction know the same.
    """

    def __init__(self, model: str, dimensions: int) -> None:
        self._model = model
        self._dimensions = dimensions
        self._documents: dict[str, IndexedDocument] = {}
        self._problems: dict[str, str] = {}
        self._counts: Counter[Outcome] = Counter()

    @property
    def dimensions(self) -> int:
        return self._dimensions

    @property
    def counts(self) -> dict[Outcome, int]:
        """Records so far by what they did."""
        return dict(self._counts)

    @property
    def problems(self) -> dict[str, str]:
        """Documents whose newest record was not taken, and why."""
        return dict(self._problems)

    def documents(self) -> list[IndexedDocument]:
        """The documents of this moment, by id."""
        return [self._documents[doc_id] for doc_id in sorted(self._documents)]

    def build(self) -> KnowledgeIndex:
        """An index of the documents of this moment."""
        return KnowledgeIndex(self.documents(), self._dimensions)

    def apply(self, key: bytes | None, value: bytes | None) -> Change:
        """Takes one record of the topic."""
        change = self._apply(key, value)
        self._counts[change.outcome] += 1
        return change

    def _apply(self, key: bytes | None, value: bytes | None) -> Change:
        try:
            doc_id = (key or b"").decode()
        except UnicodeDecodeError:
            return Change(Outcome.INVALID, None, False, "the key is not UTF-8 text")
        if not doc_id:
            return Change(Outcome.INVALID, None, False, "the record has no key: it must be the document's id")
        if value is None:
            self._problems.pop(doc_id, None)
            return Change(Outcome.REMOVED, doc_id, self._documents.pop(doc_id, None) is not None)
        try:
            document = self._read(doc_id, value)
        except _NotTaken as refusal:
            self._problems[doc_id] = refusal.detail
            removed = self._documents.pop(doc_id, None) is not None
            return Change(refusal.outcome, doc_id, removed, refusal.detail)
        self._problems.pop(doc_id, None)
        known = self._documents.get(doc_id)
        self._documents[doc_id] = document
        if known and _same(known, document):
            return Change(Outcome.UNCHANGED, doc_id, False)
        return Change(Outcome.UPSERTED, doc_id, True)

    def _read(self, doc_id: str, value: bytes) -> IndexedDocument:
        try:
            event = decode_document(value)
        except ValidationError as error:
            raise _NotTaken(Outcome.INVALID, explain(error)) from error
        if event.doc_id != doc_id:
            raise _NotTaken(Outcome.INVALID, "doc_id differs from the record's key")
        if (event.model, event.dimensions) != (self._model, self._dimensions):
            raise _NotTaken(
                Outcome.REFUSED,
                f"embedded by {event.model} ({event.dimensions} dimensions), but this worker uses "
                f"{self._model} ({self._dimensions}): add the document again with this worker's model",
            )
        return IndexedDocument(
            doc_id=event.doc_id,
            title=event.title,
            url=event.url,
            revision=event.revision,
            passages=tuple(passage.text for passage in event.passages),
            vectors=self._vectors(event),
        )

    def _vectors(self, event: DocumentUpserted) -> NDArray[np.float32]:
        rows = []
        for number, passage in enumerate(event.passages, start=1):
            try:
                raw = decode_embedding(passage.embedding)
            except (binascii.Error, ValueError) as error:
                raise _NotTaken(Outcome.INVALID, f"passage {number}: its embedding is not base64") from error
            if len(raw) != 4 * self._dimensions:
                raise _NotTaken(Outcome.INVALID, f"passage {number}: its embedding has {len(raw)} bytes")
            rows.append(np.frombuffer(raw, dtype="<f4"))
        vectors = np.vstack(rows).astype(np.float32)
        # NaN compares false, so it is refused as well. Summed in float64: a finite float32 can't overflow
        # there.
        lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
        if not bool(np.all(np.abs(lengths - 1) <= _LENGTH_TOLERANCE)):
            raise _NotTaken(Outcome.INVALID, "an embedding is not a vector of length 1")
        return vectors


def _same(one: IndexedDocument, other: IndexedDocument) -> bool:
    return (
        one.revision == other.revision
        and one.passages == other.passages
        and bool(np.array_equal(one.vectors, other.vectors))
    )
