"""A file or text into the knowledge record that workers index."""

from datetime import UTC, datetime
from pathlib import Path

from schemas.knowledge import DocumentUpserted, Passage, encode_document, encode_embedding, revision_of
from schemas.topics import MAX_DOCUMENT_BYTES
from workers.retrieval.chunks import SplitDocument, split_document
from workers.retrieval.embedder import TextEncoder
from workers.retrieval.errors import (
    DocumentTooLarge,
    EmptyDocument,
    InvalidDocumentField,
    UnreadableDocument,
    UnsupportedDocument,
)

SUPPORTED_SUFFIXES = frozenset({".md", ".markdown", ".txt"})
MAX_DOC_ID_CHARACTERS = 200
_RECORD_OVERHEAD_BYTES = 16 * 1024
"""Room for the key, the headers and the batch around the value."""


def read_document(
    path: Path, encoder: TextEncoder, *, now: datetime, doc_id: str | None = None, url: str | None = None
) -> DocumentUpserted:
    """The record of a text or Markdown file; its id is the file's name unless given. Blocks while it embeds.

    Raises:
        DocumentError: one of its kinds, each saying what to change.
    """
    check_supported(path)
    try:
        size = path.stat().st_size
        if size > MAX_DOCUMENT_BYTES:
            raise DocumentTooLarge(_too_large(path.name, size))
        raw = path.read_bytes()
    except OSError as error:
        raise UnreadableDocument(f"{path.name} cannot be opened: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableDocument(
            f"{path.name} is not UTF-8 text (byte {error.start}): save it with the encoding UTF-8"
        ) from error
    if "\0" in text:
        raise UnreadableDocument(f"{path.name} is not a text file: it holds NUL bytes")
    return make_document(doc_id or path.name, text, encoder, now=now, url=url, fallback_title=_title_of(path))


def check_supported(path: Path) -> None:
    """Raises DocumentError when the file is not there or of no kind that can be added."""
    if path.suffix.lower() not in SUPPORTED_SUFFIXES:
        known = ", ".join(sorted(SUPPORTED_SUFFIXES))
        raise UnsupportedDocument(f"{path.name}: only {known} files can be added; convert it to one of these")
    if not path.is_file():
        raise UnreadableDocument(f"There is no file {path}")


def make_document(
    doc_id: str,
    text: str,
    encoder: TextEncoder,
    *,
    now: datetime,
    url: str | None = None,
    fallback_title: str | None = None,
) -> DocumentUpserted:
    """The record of a text. `url` wins over the text's own front matter. Blocks while it embeds.

    Raises:
        DocumentError: one of its kinds, each saying what to change.
    """
    if not 0 < len(doc_id) <= MAX_DOC_ID_CHARACTERS:
        raise InvalidDocumentField(f"a document's id must have 1 to {MAX_DOC_ID_CHARACTERS} characters")
    split = split_document(text, fallback_title or doc_id)
    link = url or split.url
    # Chat pages make links of these, so nothing like javascript: may come in.
    if link is not None and not link.startswith(("https://", "http://")):
        raise InvalidDocumentField(f"{doc_id}: the url must begin with https:// or http://")
    if not split.chunks:
        raise EmptyDocument(f"{doc_id} has no text: nothing to add")
    # Base64 of float32 alone, known before an hour of embedding is spent on it.
    least = len(split.chunks) * encoder.dimensions * 16 // 3
    if least > MAX_DOCUMENT_BYTES - _RECORD_OVERHEAD_BYTES:
        raise DocumentTooLarge(_too_large(doc_id, least))
    document = _embedded(doc_id, split, link, encoder, now)
    size = len(encode_document(document))
    if size > MAX_DOCUMENT_BYTES - _RECORD_OVERHEAD_BYTES:
        raise DocumentTooLarge(_too_large(doc_id, size))
    return document


def _embedded(
    doc_id: str, split: SplitDocument, url: str | None, encoder: TextEncoder, now: datetime
) -> DocumentUpserted:
    texts = [_in_context(split.title, chunk.heading, chunk.text) for chunk in split.chunks]
    vectors = encoder.encode(texts).astype("<f4")
    return DocumentUpserted(
        doc_id=doc_id,
        title=split.title,
        url=url,
        model=encoder.name,
        dimensions=encoder.dimensions,
        revision=revision_of(split.title, url, encoder.name, texts),
        passages=[
            Passage(text=chunk.text, embedding=encode_embedding(vector.tobytes()))
            for chunk, vector in zip(split.chunks, vectors, strict=True)
        ],
        updated_at=now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )


def _in_context(title: str, heading: str, text: str) -> str:
    """What is embedded: a passage means more under its headings. Only the passage itself is cited."""
    return "\n".join(part for part in (title, heading, text) if part)


def _title_of(path: Path) -> str:
    words = path.stem.replace("-", " ").replace("_", " ").strip()
    return words[:1].upper() + words[1:] or path.name


def _too_large(name: str, size: int) -> str:
    limit = MAX_DOCUMENT_BYTES
    return f"{name} takes {size:,} bytes with its embeddings, more than {limit:,}: split it into several"
