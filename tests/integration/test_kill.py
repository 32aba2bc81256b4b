"""Processes die in mid-load: L, D, O and U hold afterwards, and the customers see every reply once."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from schemas.partition import home_partition
from tests.customers import Customer, Frame, message_id
from tests.polling import eventually
from tests.processes import Pipeline, Process, partitions_of
from tests.topic_records import (
    assert_answered_once,
    assert_in_partition_order,
    assert_store_is_the_fold,
    committed_offsets,
    read_log,
)

CUSTOMERS = 40
BEFORE, AFTER = 400, 400
"""Answers that must have been seen before the blow, and messages that are sent after it."""


@pytest.fixture
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    with new_pipeline(GENERATOR="null") as pipeline:
        yield pipeline


@dataclass
class Load:
    """Customers who write without waiting for answers, until told to stop."""

    ingresses: list[Process]
    customers: list[Customer] = field(default_factory=list)
    stopped: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, ingress: Process) -> None:
        self.customers = list(await asyncio.gather(*(Customer.join(ingress) for _ in range(CUSTOMERS))))
        self._tasks = [asyncio.create_task(self._write(customer)) for customer in self.customers]

    async def stop(self) -> None:
        self.stopped = True
        await asyncio.gather(*self._tasks)

    async def _write(self, customer: Customer) -> None:
        while not self.stopped:
            # Several at once, so that work is always open.
            ids = [await customer.say("Is anybody there?") for _ in range(5)]
            await customer.get(lambda frame, last=ids[-1]: is_about(frame, "accepted", last), ids[-1])  # type: ignore[misc]
            await asyncio.sleep(0.02)

    def accepted(self) -> dict[str, str]:
        """Every id that Kafka has, with its session."""
        return {
            frame["id"]: customer.session_id for customer in self.customers for frame in customer.of_type("accepted")
        }

    def answered(self) -> set[str]:
        return {frame["id"] for customer in self.customers for frame in customer.of_type("reply")}

    async def grown_by(self, count: int) -> None:
        """Returns when this many more messages were answered than now."""
        goal = len(self.answered()) + count

        async def enough() -> bool:
            return len(self.answered()) >= goal

        await eventually(enough, f"{count} more answers", deadline_s=60)

    async def all_answered(self) -> None:
        async def everything() -> bool:
            return not self.accepted().keys() - self.answered()

        await eventually(everything, "an answer to everything that was accepted", deadline_s=60)

    async def leave(self) -> None:
        await asyncio.gather(*(customer.close() for customer in self.customers))


def is_about(frame: Frame, kind: str, id: str) -> bool:
    return bool(frame["type"] == kind and frame["id"] == id)


async def assert_all_is_well(pipeline: Pipeline, load: Load) -> None:
    for customer in load.customers:
        seqs = [frame["seq"] for frame in customer.sequenced]
        assert seqs == list(range(1, len(seqs) + 1)), f"D, O on the socket of {customer.session_id}"
    log = await read_log(pipeline)
    assert_answered_once(log, load.accepted())
    assert_in_partition_order(log)
    await assert_store_is_the_fold(pipeline, log)
    await assert_nothing_is_committed_beyond(pipeline, log_ends={r.partition: r.offset + 1 for r, _ in log.inbound})


async def assert_nothing_is_committed_beyond(pipeline: Pipeline, log_ends: dict[int, int]) -> None:
    """C, at rest: in the end everything is done and committed, and no more than that."""

    async def committed() -> bool:
        return await committed_offsets(pipeline) == log_ends

    await eventually(committed, f"the group has committed {log_ends}")


async def test_a_worker_that_is_asked_to_stop_drains_and_leaves_nothing_behind(pipeline: Pipeline) -> None:
    ingress, leaving, heir = pipeline.ingress(), pipeline.worker(), pipeline.worker()
    await asyncio.to_thread(pipeline.ready)
    owned = await asyncio.to_thread(partitions_of, leaving)
    load = Load([ingress])
    await load.start(ingress)
    await load.grown_by(BEFORE)
    assert owned & {home_partition(customer.session_id, 12) for customer in load.customers}, "nobody is at home there"
    assert await asyncio.to_thread(leaving.server.stop, 30.0) == 0
    await load.grown_by(AFTER)
    await load.stop()
    await load.all_answered()
    assert await asyncio.to_thread(partitions_of, heir) == set(range(12))
    log = await read_log(pipeline)
    published = Counter(event.id for record, event in log.replies if record.partition in owned)
    assert set(published.values()) == {1}, "what was drained is done: nobody has to publish it again"
    await assert_all_is_well(pipeline, load)
    await load.leave()


async def test_an_ingress_is_killed_and_its_customers_go_on_at_the_other(pipeline: Pipeline) -> None:
    victim, other, _worker = pipeline.ingress(), pipeline.ingress(), pipeline.worker()
    await asyncio.to_thread(pipeline.ready)
    customers = await asyncio.gather(*(Customer.join(victim) for _ in range(CUSTOMERS)))
    sent = {customer.session_id: [await customer.say(f"Message {n}") for n in range(10)] for customer in customers}

    async def halfway() -> bool:
        return sum(len(customer.of_type("reply")) for customer in customers) >= 2 * CUSTOMERS

    await eventually(halfway, "some answers")
    victim.server.kill()
    await asyncio.gather(*(customer.closed() for customer in customers))
    unseen = sum(len(ids) for ids in sent.values()) - sum(len(customer.of_type("reply")) for customer in customers)
    assert unseen, "everything was answered before the blow"

    async def go_on(customer: Customer) -> None:
        accepted = {frame["id"] for frame in customer.of_type("accepted")}
        again = await customer.rejoin(other)
        assert again.welcome["recovered"] or not customer.sequenced
        shown = {frame["id"] for frame in (*customer.sequenced, *again.welcome["missed"])}
        for id in sent[customer.session_id]:
            if id not in accepted and id not in shown:
                await again.say("Message again", id)
        last = message_id()
        await again.ask("Are you still there?", last)
        frames = [*customer.sequenced, *again.sequenced]
        assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1)), "nothing missed, nothing twice"
        assert sorted(frame["id"] for frame in frames) == sorted([*sent[customer.session_id], last])
        await again.close()

    await asyncio.gather(*(go_on(customer) for customer in customers))
    log = await read_log(pipeline)
    assert_answered_once(log, [id for ids in sent.values() for id in ids])
    assert_in_partition_order(log)
