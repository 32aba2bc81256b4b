"""The knowledge that messages are answered with again: a directory's or the topic's, indexed in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ops.errors import OpsError, UsageError
from ops.kafka.connection import KafkaConnection
from ops.knowledge import read_knowledge
from ops.settings import Settings
from schemas.knowledge import encode_document
from workers.generation.protocol import Retriever

if TYPE_CHECKING:
    from workers.retrieval.embedder import Embedder
    from workers.retrieval.knowledge import KnowledgeState

Advance = Callable[[int, int | None], None]
Stage = Callable[[str], AbstractContextManager[Advance]]
"""Shows how far something is, while the block runs."""


@dataclass(frozen=True, slots=True)
class Known:
    """Knowledge that is ready to be asked."""

    retriever: Retriever
    documents: int
    passages: int
    kb_version: str
    """As replies name it."""
    left_out: int
    """Documents of the topic that this embedding model can't use."""


def knowledge_files(directory: Path) -> list[Path]:
    """The files of `directory` that `knowledge add` takes, by name. Raises UsageError where there are none."""
    from workers.retrieval.documents import SUPPORTED_SUFFIXES

    try:
        found = sorted(path for path in directory.iterdir() if path.suffix.lower() in SUPPORTED_SUFFIXES)
    except OSError as error:
        raise UsageError(f"{directory} can't be read: {error.strerror}") from error
    if not found:
        raise UsageError(f"There is no {', '.join(sorted(SUPPORTED_SUFFIXES))} file in {directory}")
    return found


@asynccontextmanager
async def known(
    settings: Settings, connection: KafkaConnection, topic: str, files: list[Path] | None, stage: Stage
) -> AsyncIterator[Known]:
    """What `files` say, or what `topic` holds if they are None. Publishes nothing.

    Raises:
        OpsError: the model is missing, a file is no document, or the topic can't be read.
    """
    from ops.processes.worker import load_embedder
    from workers.retrieval.knowledge import KnowledgeState
    from workers.retrieval.retriever import KnowledgeRetriever

    embedder = await load_embedder(settings)
    try:
        state = KnowledgeState(embedder.name, embedder.dimensions)
        if files is None:
            await read_knowledge(connection, topic, state.apply)
        else:
            with stage("Indexing documents") as advance:
                await _index(files, embedder, state, advance)
        index = await asyncio.to_thread(state.build)
        retriever = KnowledgeRetriever(embedder, lambda: index)
        yield Known(retriever, index.documents, len(index), index.kb_version, len(state.problems))
    finally:
        await asyncio.to_thread(embedder.close)


async def _index(files: list[Path], embedder: "Embedder", state: "KnowledgeState", advance: Advance) -> None:
    from workers.retrieval.documents import read_document
    from workers.retrieval.errors import DocumentError

    advance(0, len(files))
    for done, path in enumerate(files, 1):
        try:
            document = await asyncio.to_thread(read_document, path, embedder, now=datetime.now(UTC))
        except DocumentError as error:
            raise OpsError(str(error)) from error
        # By way of the record that would be published, so that it is read as a worker reads it.
        state.apply(document.doc_id.encode(), encode_document(document))
        advance(done, len(files))
