import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.knowledge import encode_document, encode_embedding
from tests.unit.retrieval.fakes import HashEncoder, document, record
from workers.retrieval.index import PASSAGES_PER_DOCUMENT
from workers.retrieval.knowledge import KnowledgeState, Outcome

RECORDS = {
    ("a", 1): record("a", "One."),
    ("a", 2): record("a", "Two."),
    ("b", 1): record("b", "Three."),
    ("a", 0): (b"a", None),
    ("b", 0): (b"b", None),
    ("b", 9): (b"b", b"{"),
    ("a", 9): record("a", "One.", HashEncoder("other")),
}


def _folded(records: list[tuple[bytes, bytes | None]]) -> KnowledgeState:
    state = KnowledgeState("hash", 8)
    for key, value in records:
        state.apply(key, value)
    return state


@given(st.lists(st.sampled_from(sorted(RECORDS))))
def test_a_compacted_topic_gives_the_same_knowledge(names: list[tuple[str, int]]) -> None:
    records = [RECORDS[name] for name in names]
    compacted = list({key: (key, value) for key, value in records}.values())
    full, short = _folded(records), _folded(compacted)
    assert full.build().kb_version == short.build().kb_version
    assert full.problems == short.problems


@given(st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=200))
def test_no_record_is_fatal(key: bytes | None, value: bytes | None) -> None:
    state = KnowledgeState("hash", 8)
    change = state.apply(key, value)
    assert change.outcome in (Outcome.INVALID, Outcome.REMOVED)
    assert sum(state.counts.values()) == 1


def test_an_equal_document_needs_no_new_index() -> None:
    state = KnowledgeState("hash", 8)
    assert state.apply(*record("a")).affects_index
    again = state.apply(*record("a"))
    assert (again.outcome, again.affects_index) == (Outcome.UNCHANGED, False)
    assert state.apply(b"a", None).affects_index
    assert not state.apply(b"a", None).affects_index


def test_another_model_is_refused_with_what_to_do() -> None:
    change = KnowledgeState("hash", 8).apply(*record("a", encoder=HashEncoder("other", 4)))
    assert change.outcome is Outcome.REFUSED
    assert "other (4 dimensions)" in change.detail
    assert "add the document again" in change.detail


@pytest.mark.parametrize(
    "embedding",
    [
        "not base64!",
        encode_embedding(b"\0" * 12),
        encode_embedding(np.zeros(8, "<f4").tobytes()),
        encode_embedding(np.full(8, np.nan, "<f4").tobytes()),
        encode_embedding(np.full(8, 3e38, "<f4").tobytes()),
    ],
)
def test_a_bad_embedding_is_invalid(embedding: str) -> None:
    good = document("a")
    bad = good.model_copy(update={"passages": [good.passages[0].model_copy(update={"embedding": embedding})]})
    change = KnowledgeState("hash", 8).apply(b"a", encode_document(bad))
    assert change.outcome is Outcome.INVALID
    assert change.detail


def test_the_key_must_be_the_document_id() -> None:
    change = KnowledgeState("hash", 8).apply(b"b", record("a")[1])
    assert change.outcome is Outcome.INVALID


def test_search_finds_the_equal_text_first_and_few_of_one_document() -> None:
    encoder = HashEncoder()
    long = "\n\n".join(f"Sentence {number} " + "word " * 60 + "." for number in range(30))
    index = _folded([record("long", long), record("b", "Three."), record("copy", "Three.")]).build()
    [found] = index.search(encoder.encode(["b\nThree."]), 5)
    assert found[0].doc_id == "b"
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert [citation.score for citation in found] == sorted((c.score for c in found), reverse=True)
    assert sum(citation.doc_id == "long" for citation in found) <= PASSAGES_PER_DOCUMENT
    assert [citation.passage for citation in found].count("Three.") == 1
    assert len(found) == 3


def test_empty_knowledge_finds_nothing() -> None:
    index = KnowledgeState("hash", 8).build()
    assert index.search(HashEncoder().encode(["x"]), 3) == [[]]
    assert len(index) == 0
