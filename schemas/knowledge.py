"""Knowledge: documents with their passages and embeddings, one record per document in a compacted topic.

Key: the document's id. A record without a value removes the document.
"""

from base64 import b64decode, b64encode
from hashlib import blake2b
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from schemas.inbound import Rfc3339


class Passage(BaseModel):
    """A piece of a document, small enough to be embedded and cited whole."""

    model_config = ConfigDict(frozen=True)

    text: str
    embedding: str
    """Base64 of little-endian float32 numbers, of length 1 as a vector (L2)."""


class DocumentUpserted(BaseModel):
    """A document as every worker indexes it."""

    model_config = ConfigDict(frozen=True)

    doc_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    title: str
    url: str | None = None
    model: str
    """Name of the embedding model; a worker with another one refuses the document."""
    dimensions: int
    revision: str
    """Hash of title, url, texts and model: equal content, equal revision."""
    passages: list[Passage] = Field(min_length=1)
    updated_at: Rfc3339


_DOCUMENT = TypeAdapter(DocumentUpserted)


def decode_document(value: bytes) -> DocumentUpserted:
    """Raises pydantic.ValidationError when it isn't one."""
    return _DOCUMENT.validate_json(value)


def encode_document(document: DocumentUpserted) -> bytes:
    return document.__pydantic_serializer__.to_json(document, exclude_none=True)


def encode_embedding(little_endian_float32: bytes) -> str:
    return b64encode(little_endian_float32).decode("ascii")


def decode_embedding(text: str) -> bytes:
    return b64decode(text, validate=True)


def revision_of(title: str, url: str | None, model: str, texts: list[str]) -> str:
    """A short hash (64 bits) of what a document says and how it was embedded."""
    digest = blake2b(digest_size=8)
    for part in (title, url or "", model, *texts):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def kb_version(revisions: dict[str, str]) -> str:
    """A short hash of a whole knowledge base (document id to revision): equal on workers that know the same."""
    digest = blake2b(digest_size=6)
    for doc_id in sorted(revisions):
        digest.update(f"{doc_id}\0{revisions[doc_id]}\0".encode())
    return digest.hexdigest()
