"""The sample knowledge with the real model: the facts are found, and what it doesn't have is not made up."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import ops
from schemas.knowledge import encode_document
from schemas.replies import Citation
from tests.unit.retrieval.questions import ANSWERED_BY, OUT_OF_SCOPE
from workers.generation.extractive import ExtractiveGenerator
from workers.generation.protocol import Answer
from workers.retrieval.documents import read_document
from workers.retrieval.embedder import Embedder
from workers.retrieval.index import KnowledgeIndex
from workers.retrieval.knowledge import KnowledgeState

SAMPLES = Path(ops.__file__).parent / "sample_knowledge"


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    loaded = Embedder.load()
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def index(embedder: Embedder) -> KnowledgeIndex:
    state = KnowledgeState(embedder.name, embedder.dimensions)
    for path in sorted(SAMPLES.glob("*.md")):
        document = read_document(path, embedder, now=datetime.now(UTC))
        change = state.apply(document.doc_id.encode(), encode_document(document))
        assert change.affects_index, change
    return state.build()


def _answers(embedder: Embedder, index: KnowledgeIndex, questions: list[str]) -> list[Answer]:
    generator = ExtractiveGenerator()
    found: list[list[Citation]] = index.search(embedder.encode(questions), 6)
    return [generator.answer(text, passages) for text, passages in zip(questions, found, strict=True)]


def test_there_are_ten_documents(index: KnowledgeIndex) -> None:
    assert index.documents == 10


def test_questions_cite_the_document_that_answers_them_first(embedder: Embedder, index: KnowledgeIndex) -> None:
    answers = _answers(embedder, index, list(ANSWERED_BY))
    wrong = {
        question: [citation.doc_id for citation in answer.citations]
        for (question, doc_id), answer in zip(ANSWERED_BY.items(), answers, strict=True)
        if not answer.citations or answer.citations[0].doc_id != doc_id
    }
    # One may be missed: that is how well it does, not a fact to keep by changing the questions.
    assert len(wrong) <= 1, wrong


def test_questions_out_of_scope_are_not_answered(embedder: Embedder, index: KnowledgeIndex) -> None:
    answers = _answers(embedder, index, OUT_OF_SCOPE)
    made_up = {text: a.text for text, a in zip(OUT_OF_SCOPE, answers, strict=True) if a.citations}
    assert made_up == {}
    assert all(answer.offers_person for answer in answers)


def test_embedding_alone_or_in_a_batch_gives_the_same_vector(embedder: Embedder) -> None:
    async def together(texts: list[str]) -> list[np.ndarray]:
        return await asyncio.gather(*(embedder.embed(text) for text in texts))

    texts = list(ANSWERED_BY)[:12]
    vectors = np.array(asyncio.run(together(texts)))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors, embedder.encode(texts), atol=1e-5)
