"""Records of transactions: answered when they are committed, never when they are aborted, not before their end."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from uuid import uuid4

import pytest

from tests.neighbours.java_producer import Batch, End, JavaProducer
from tests.neighbours.outcomes import (
    PARTITIONS,
    Outcomes,
    Question,
    assert_verified,
    health_says,
    outcomes_of,
    publish,
    questions,
)
from tests.polling import eventually
from tests.processes import Pipeline, Process

HELD = 4
"""The partition in which a transaction stays open."""
TRANSACTIONS = 20
"""Of each round, beside plain records."""
ROUNDS_UNDER_KILLS = 3
HANGS_MS = 38_000
"""Longer than health takes to speak up (10 s and 30 s), and the broker looks for hanging ones every 10 s."""


def transactional_id() -> str:
    return f"orders-{uuid4().hex[:8]}"


def batch(asked: Sequence[Question], end: End) -> Batch:
    return Batch([each.outgoing() for each in asked], end)


@dataclass(frozen=True)
class Hanging:
    """A pipeline one of whose partitions is held by a transaction that its producer never ends."""

    pipeline: Pipeline
    inside: list[Question]
    behind: list[Question]
    beside: list[Question]
    health: "HealthWatch"


class HealthWatch:
    """Asks a worker for its health until it is stopped, on a thread of its own: the tests beside it take their time."""

    def __init__(self, worker: Process, partition: str) -> None:
        self.named_at: dict[str, datetime] = {}
        """When a report first named the partition and its transaction, by path."""
        self.ready_again = False
        """Whether the worker was ready when it was asked last."""
        self._worker = worker
        self._partition = partition
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    async def _watch(self) -> None:
        while not self._stopped.is_set():
            for path, status in (("/health", None), ("/health/ready", 503)):
                code, texts = await health_says(self._worker, path)
                named = any(self._partition in text and "transaction" in text for text in texts)
                if named and code == (status or code):
                    self.named_at.setdefault(path, datetime.now(UTC))
                self.ready_again = code == 200
            await asyncio.sleep(0.5)


@pytest.fixture(scope="module", autouse=True)
def hanging(new_pipeline: Callable[..., Pipeline], java: JavaProducer) -> Iterator[Hanging]:
    """It begins before the other tests, which don't touch it: half a minute passes until all is said of it."""
    with new_pipeline(GENERATOR="null") as pipeline:
        worker = pipeline.worker()
        pipeline.ready()
        inside, behind = questions("inside", [HELD]), questions("behind", [HELD])
        beside = questions("beside", [n for n in range(PARTITIONS) if n != HELD])
        settings = {"transactional_id": transactional_id(), "transaction_timeout_ms": str(HANGS_MS)}
        java.send(pipeline.topics.inbound, [batch(inside, "open")], **settings)
        asyncio.run(publish(pipeline, [*behind, *beside]))
        health = HealthWatch(worker, f"{pipeline.topics.inbound}:{HELD}")
        health.start()
        yield Hanging(pipeline, inside, behind, beside, health)
        health.stop()


async def test_committed_records_are_answered_aborted_ones_never_and_open_ones_at_their_end(
    pipeline: Pipeline, java: JavaProducer
) -> None:
    pipeline.worker()
    inbound, ours = pipeline.topics.inbound, transactional_id()
    committed, aborted = questions("committed", each=3), questions("aborted", each=3)
    still_open, behind = questions("open", [HELD]), questions("behind", [HELD])
    batches = [
        batch(committed, "commit"),
        batch(aborted, "abort"),
        batch(still_open, "open"),
    ]
    await asyncio.to_thread(java.send, inbound, batches, transactional_id=ours, compression_type="lz4")
    beside = questions("beside", [n for n in range(PARTITIONS) if n != HELD])
    await publish(pipeline, [*behind, *beside])
    async with outcomes_of(pipeline) as outcomes:
        await outcomes.answers([each.id for each in (*committed, *beside)])
        held = {each.id for each in (*still_open, *behind)}
        assert not held & outcomes.answered, "a record was answered whose transaction may still be aborted"
        await asyncio.to_thread(java.finish, ours, "commit")
        await outcomes.answers(held)
        assert_never_answered(outcomes, aborted)
    found = await assert_verified(pipeline)
    assert found["answered"] == len(committed) + len(beside) + len(held)


async def test_gaps_of_many_transactions_stop_neither_commits_nor_workers_that_take_over(
    pipeline: Pipeline, java: JavaProducer
) -> None:
    """L, D, O, C: a marker takes an offset that no record has; a worker that is killed leaves the next one to begin
    anywhere among them."""
    workers = [pipeline.worker(), pipeline.worker()]
    await asyncio.to_thread(pipeline.ready)
    names = count()
    answerable: list[Question] = []
    aborted: list[Question] = []
    async with outcomes_of(pipeline) as outcomes:
        for _ in range(ROUNDS_UNDER_KILLS):
            commits = [questions(f"commit-{next(names)}", each=2) for _ in range(TRANSACTIONS)]
            aborts = [questions(f"abort-{next(names)}") for _ in range(TRANSACTIONS // 4)]
            plain = [questions(f"plain-{next(names)}") for _ in range(4)]
            sending = asyncio.to_thread(send_mixed, java, pipeline, commits, aborts)
            round_sent = asyncio.gather(sending, *(publish(pipeline, each) for each in plain))
            victim = workers.pop(0)
            await outcomes.answers([each.id for each in plain[0]])
            victim.server.kill()
            workers.append(pipeline.worker())
            await round_sent
            answerable += [each for some in (*commits, *plain) for each in some]
            aborted += [each for some in aborts for each in some]
        await outcomes.answers([each.id for each in answerable])
        assert_never_answered(outcomes, aborted)
    found = await assert_verified(pipeline)
    assert found["answered"] == len(answerable)


def send_mixed(
    java: JavaProducer, pipeline: Pipeline, commits: list[list[Question]], aborts: list[list[Question]]
) -> None:
    """Transactions one after the other, every fourth of them followed by one that is aborted."""
    batches: list[Batch] = []
    for number, asked in enumerate(commits):
        batches.append(batch(asked, "commit"))
        if number % 4 == 3:
            batches.append(batch(aborts[number // 4], "abort"))
    java.send(pipeline.topics.inbound, batches, transactional_id=transactional_id())


async def test_a_hanging_transaction_holds_its_own_partition_and_health_names_it_until_it_is_over(
    hanging: Hanging,
) -> None:
    """P, H. The broker ends it."""
    health = hanging.health
    async with outcomes_of(hanging.pipeline) as outcomes:
        await outcomes.answers([each.id for each in hanging.beside])
        await outcomes.answers([each.id for each in hanging.behind], within_s=90)
        assert_never_answered(outcomes, hanging.inside)
        assert health.named_at.keys() == {"/health", "/health/ready"}
        unready_at = health.named_at["/health/ready"]
        assert health.named_at["/health"] <= unready_at
        assert last_answer(outcomes, hanging.beside) < unready_at < last_answer(outcomes, hanging.behind)

    async def ready() -> bool:
        return health.ready_again

    await eventually(ready, "the worker is ready again")
    await assert_verified(hanging.pipeline)


def last_answer(outcomes: Outcomes, asked: Sequence[Question]) -> datetime:
    """When the last of these messages was answered."""
    return max(datetime.fromisoformat(event.completed_at) for each in asked for event in outcomes.replies[each.id])


def assert_never_answered(outcomes: Outcomes, aborted: list[Question]) -> None:
    seen = {each.id for each in aborted} & outcomes.replies.keys()
    assert not seen, f"records of aborted transactions were taken for inbound: {sorted(seen)[:5]}"
