"""A few threads that encode, for many coroutines that each have one text."""

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from workers.retrieval.batching import BatchQueue
from workers.retrieval.errors import EmbedderClosed

R = TypeVar("R")
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")


def count_words(text: str) -> int:
    """Words and marks: nearly what a tokenizer makes of English."""
    return sum(1 for _ in _WORD_OR_MARK.finditer(text))


@dataclass(frozen=True, slots=True)
class _Request(Generic[R]):
    text: str
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[R]


class MicroBatcher(Generic[R]):
    """Batches without waiting: a text goes out at once if a thread is free, and what arrives while all are
    busy forms the next batches.

    `encode` runs on the batcher's own `threads`, with 1 to `limit` texts each time, and returns one
    result per text in order. `length` says what a text costs (in tokens), quickly. What it raises reaches the
    callers of that batch and no others.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], Sequence[R]],
        *,
        length: Callable[[str], int] = count_words,
        limit: int = 32,
        threads: int = 1,
        name: str = "encoder",
    ) -> None:
        self._encode = encode
        self._length = length
        self._limit = limit
        self._waiting: BatchQueue[_Request[R]] = BatchQueue()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, text: str) -> R:
        """The result for one text. Cancelling takes a text back that has not been started.

        Raises:
            EmbedderClosed: the batcher is or was closed first.
            Exception: whatever `encode` raised for the batch of this text.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        length = self._length(text)
        with self._changed:
            if self._closed:
                raise EmbedderClosed("the embedder is closed")
            ticket = self._waiting.put(_Request(text, loop, future), length)
            self._changed.notify()
        try:
            return await future
        except asyncio.CancelledError:
            with self._changed:
                self._waiting.discard(ticket)
            raise

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Fails what waits and returns when the running batches are done. Safe to call again, and from any
        thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                results = self._encode([request.text for request in batch])
                if len(results) != len(batch):
                    raise RuntimeError(f"{len(batch)} texts gave {len(results)} results")
            except Exception as error:
                _deliver(batch, None, error)
            else:
                _deliver(batch, results, None)

    def _next_batch(self) -> list[_Request[R]]:
        """The next batch as soon as there is one; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._waiting) > 0)
            if not self._closed:
                return self._waiting.take(self._limit)
            while rest := self._waiting.take(self._limit):
                _deliver(rest, None, EmbedderClosed("the embedder was closed"))
            return []


def _deliver(batch: list[_Request[R]], results: Sequence[R] | None, error: Exception | None) -> None:
    """Wakes each event loop once for the whole batch."""
    by_loop: dict[asyncio.AbstractEventLoop, list[int]] = {}
    for position, request in enumerate(batch):
        by_loop.setdefault(request.loop, []).append(position)
    for loop, positions in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, batch, positions, results, error)
        except RuntimeError:
            # The loop is closed, and the coroutines that waited on it are gone with it.
            if not loop.is_closed():
                raise


def _resolve(
    batch: list[_Request[R]], positions: list[int], results: Sequence[R] | None, error: Exception | None
) -> None:
    for position in positions:
        future = batch[position].future
        if future.done():
            continue
        if results is not None:
            future.set_result(results[position])
        elif error is not None:
            future.set_exception(error)
