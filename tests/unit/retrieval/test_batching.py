import asyncio
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.retrieval.batching import BatchQueue
from workers.retrieval.errors import EmbedderClosed
from workers.retrieval.micro_batcher import MicroBatcher

DEADLINE_S = 5


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 16), st.sets(st.integers(0, 79)))
def test_every_item_is_taken_once_and_the_oldest_always(lengths: list[int], limit: int, discarded: set[int]) -> None:
    queue: BatchQueue[int] = BatchQueue()
    for number, length in enumerate(lengths):
        queue.put(number, length)
    waiting = [number for number in range(len(lengths)) if number not in discarded]
    for number in discarded & set(range(len(lengths))):
        assert queue.discard(number)
        assert not queue.discard(number)
    while len(queue):
        batch = queue.take(limit)
        assert 1 <= len(batch) <= limit
        assert waiting[0] in batch
        sizes = [lengths[number] for number in batch]
        assert max(sizes) <= 1.2 * min(sizes) + 2
        waiting = [number for number in waiting if number not in batch]
    assert waiting == []
    assert queue.take(limit) == []


class Gate:
    """An encoder that shows its batches and waits to be let through."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def encode(self, texts: list[str]) -> Sequence[str]:
        self.batches.append(texts)
        self.started.release()
        assert self.open.acquire(timeout=DEADLINE_S)
        if "bad" in texts:
            raise ValueError("bad text")
        return [text.upper() for text in texts]

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=DEADLINE_S)

    def let_through(self, batches: int) -> None:
        self.open.release(batches)


async def _submitted(batcher: MicroBatcher[str], *texts: str) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(batcher.submit(text)) for text in texts]
    await asyncio.sleep(0)
    return tasks


def test_a_lone_text_goes_at_once_and_the_rest_together() -> None:
    async def run() -> None:
        gate = Gate()
        batcher = MicroBatcher(gate.encode)
        first = await _submitted(batcher, "a")
        await gate.has_started()
        rest = await _submitted(batcher, "b", "c", "d")
        gate.let_through(2)
        assert await asyncio.gather(*first, *rest) == ["A", "B", "C", "D"]
        assert gate.batches[0] == ["a"]
        assert sorted(gate.batches[1]) == ["b", "c", "d"]
        batcher.close()

    asyncio.run(run())


def test_an_error_reaches_its_batch_only() -> None:
    async def run() -> None:
        gate = Gate()
        batcher = MicroBatcher(gate.encode, limit=2)
        gate.let_through(3)
        first = await _submitted(batcher, "bad")
        with pytest.raises(ValueError, match="bad text"):
            await first[0]
        assert await batcher.submit("good") == "GOOD"
        batcher.close()

    asyncio.run(run())


def test_a_cancelled_text_is_not_encoded() -> None:
    async def run() -> None:
        gate = Gate()
        batcher = MicroBatcher(gate.encode)
        first = await _submitted(batcher, "a")
        await gate.has_started()
        waiting = await _submitted(batcher, "b", "c")
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        gate.let_through(2)
        assert [await first[0], await waiting[1]] == ["A", "C"]
        assert gate.batches == [["a"], ["c"]]
        batcher.close()

    asyncio.run(run())


def test_closing_fails_what_waits_and_finishes_what_runs() -> None:
    async def run() -> None:
        gate = Gate()
        batcher = MicroBatcher(gate.encode)
        first = await _submitted(batcher, "a")
        await gate.has_started()
        waiting = await _submitted(batcher, "b")
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        deadline = time.monotonic() + DEADLINE_S
        while not batcher.closed:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        gate.let_through(1)
        assert await first[0] == "A"
        with pytest.raises(EmbedderClosed):
            await waiting[0]
        await closing
        with pytest.raises(EmbedderClosed):
            await batcher.submit("c")

    asyncio.run(run())


def test_a_wrong_number_of_results_is_an_error() -> None:
    async def run() -> None:
        batcher: MicroBatcher[str] = MicroBatcher(lambda texts: [])
        with pytest.raises(RuntimeError, match="0 results"):
            await batcher.submit("a")
        batcher.close()

    asyncio.run(run())
