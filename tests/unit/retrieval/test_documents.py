from pathlib import Path

import pytest

from schemas.knowledge import decode_embedding
from tests.unit.retrieval.fakes import NOW, HashEncoder, document
from workers.retrieval.documents import make_document, read_document
from workers.retrieval.embedder import Vectors
from workers.retrieval.errors import (
    DocumentTooLarge,
    EmptyDocument,
    InvalidDocumentField,
    UnreadableDocument,
    UnsupportedDocument,
)


def test_a_file_becomes_a_document(tmp_path: Path) -> None:
    path = tmp_path / "return-policy.txt"
    path.write_bytes("\ufeffThirty days.".encode())
    read = read_document(path, HashEncoder(), now=NOW)
    assert (read.doc_id, read.title, read.model, read.dimensions) == (
        "return-policy.txt",
        "Return policy",
        "hash",
        8,
    )
    assert read.updated_at == "2026-01-02T03:04:05.000Z"
    assert [passage.text for passage in read.passages] == ["Thirty days."]
    assert len(decode_embedding(read.passages[0].embedding)) == 4 * 8


def test_equal_content_has_an_equal_revision() -> None:
    assert document("a", "# T\nSame.").revision == document("a", "# T\n\nSame.").revision
    assert document("a", "# T\nSame.").revision != document("a", "# T\nOther.").revision


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("a.pdf", b"%PDF", UnsupportedDocument, ".md"),
        ("a.md", b"", EmptyDocument, "no text"),
        ("a.md", b"---\nurl: https://x.example\n---\n", EmptyDocument, "no text"),
        ("a.txt", "é".encode("latin-1"), UnreadableDocument, "UTF-8"),
        ("a.txt", b"a\0b", UnreadableDocument, "NUL"),
        ("a.md", b"---\nurl: javascript:alert(1)\n---\nText.", InvalidDocumentField, "https://"),
        ("a.txt", b"x" * 9_000_000, DocumentTooLarge, "split"),
    ],
)
def test_a_bad_file_says_what_to_do(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=says):
        read_document(path, HashEncoder(), now=NOW)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument, match="There is no file"):
        read_document(tmp_path / "gone.md", HashEncoder(), now=NOW)


def test_too_many_passages_are_refused_before_they_are_embedded() -> None:
    class Untouched(HashEncoder):
        def encode(self, texts: list[str]) -> Vectors:
            raise AssertionError("embedded")

    with pytest.raises(DocumentTooLarge):
        make_document("a", "\n\n".join(["word " * 60] * 500), Untouched(dimensions=4_096), now=NOW)
