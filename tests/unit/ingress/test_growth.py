"""An ingress follows its topics when partitions are added."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
import pytest

from ingress import growth as growth_module
from ingress.growth import Growth
from ingress.homes import Homes
from ingress.refusals import RecordRefused
from schemas.partition import home_partition
from schemas.publishing import BrokerUnavailable
from tests.unit.workers.fakes import until

INBOUND, REPLIES = "support.inbound.v1", "support.replies.v1"
MOVING = next(f"s{n}" for n in range(100) if home_partition(f"s{n}", 2) != home_partition(f"s{n}", 4))
OLD = home_partition(MOVING, 2)


@dataclass
class Reader:
    """A reader of the reply topic."""

    topic: str = REPLIES
    partitions: int = 2

    async def extend(self, partitions: int) -> None:
        self.partitions = partitions


@dataclass
class World:
    """Topics and workers."""

    counts: dict[str, int] = field(default_factory=lambda: {INBOUND: 2, REPLIES: 2})
    ends: dict[int, int] = field(default_factory=lambda: {0: 5, 1: 5})
    done: dict[int, int] = field(default_factory=dict)
    away: int = 0
    error: Exception = field(default_factory=lambda: BrokerUnavailable("no broker"))

    async def count(self, topic: str) -> int:
        if self.away:
            self.away -= 1
            raise self.error
        return self.counts[topic]

    async def log_ends(self, count: int) -> Mapping[int, int]:
        return {number: self.ends[number] for number in range(count)}

    async def done_below(self, count: int) -> Mapping[int, int]:
        return self.done


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(growth_module, "POLL_SECONDS", 0.001)
    return World()


def growing(world: World, homes: Homes, reader: Reader) -> Growth:
    return Growth(
        inbound_topic=INBOUND,
        homes=homes,
        readers=[reader],  # type: ignore[list-item]  # what is asked of a reader
        count=world.count,
        log_ends=world.log_ends,
        done_below=world.done_below,
        interval=0.001,
    )


async def test_new_reply_partitions_are_read_and_sessions_move_when_workers_are_through(world: World) -> None:
    homes, reader = Homes(2), Reader()
    following = asyncio.create_task(growing(world, homes, reader).run())
    world.counts[REPLIES] = 4
    await until(lambda: reader.partitions == 4)
    assert homes.count == 2
    world.counts[INBOUND] = 4
    await until(lambda: homes.count == 4)
    assert not homes.settled
    world.done = {0: 5, 1: 5}
    await until(lambda: homes.settled)
    following.cancel()


@pytest.mark.parametrize("error", [BrokerUnavailable("no broker"), TypeError("stale metadata"), AssertionError()])
async def test_after_any_error_it_is_looked_again(world: World, error: Exception) -> None:
    homes, reader = Homes(2), Reader()
    world.away, world.error, world.counts[REPLIES] = 3, error, 4
    following = asyncio.create_task(growing(world, homes, reader).run())
    await until(lambda: reader.partitions == 4)
    following.cancel()


def test_a_reply_lets_its_session_move(world: World) -> None:
    homes = Homes(2)
    growth = growing(world, homes, Reader())
    homes.grow(4)
    homes.barrier({0: 5, 1: 5})
    homes.published(homes.choose(MOVING), 7)
    for value in (b"{", b"[]", b'{"source": 7}'):
        with pytest.raises(RecordRefused):
            growth.replied(MOVING.encode(), value)
    for value in (orjson.dumps({"source": None}), answer(6, INBOUND), answer(7, "elsewhere")):
        growth.replied(MOVING.encode(), value)
    assert homes.waits_for_answer(MOVING)
    growth.replied(MOVING.encode(), answer(7, f"{INBOUND}@1"))
    assert not homes.waits_for_answer(MOVING)


def answer(offset: int, topic: str) -> bytes:
    return orjson.dumps({"source": {"topic": topic, "partition": OLD, "offset": offset}})
