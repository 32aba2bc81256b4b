"""A working copy's session is written with its events, and only over what it was folded from."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from schemas.session import RECENT_EVENTS, SessionData
from store.encryption import PlainText
from store.redis.connect import RedisSettings, connect
from store.redis.working_copy import Folded, Step, WorkingCopy
from tests.contract.conftest import tls_settings

NewCopy = Callable[[], WorkingCopy]


@pytest.fixture(params=["redis", "cluster", "tls"])
def settings(request: pytest.FixtureRequest) -> RedisSettings:
    """With TLS as a user who may do no more than docs/security.md says."""
    if request.param == "tls":
        return tls_settings(request.getfixturevalue("redis_tls"))
    if request.param == "redis":
        return RedisSettings(request.getfixturevalue("redis_server").url)
    return RedisSettings(f"redis+cluster://{request.getfixturevalue('redis_cluster').url.removeprefix('redis://')}")


@pytest.fixture
async def new_copy(settings: RedisSettings, redis_prefix: str) -> AsyncIterator[NewCopy]:
    """Writers of the same working copy."""
    async with AsyncExitStack() as stack:

        def make() -> WorkingCopy:
            copy = WorkingCopy(
                connect(settings),
                live_prefix=redis_prefix,
                name="x",
                cipher=PlainText(),
                whole=True,
                keep_seconds=60,
            )
            stack.push_async_callback(copy.close)
            return copy

        yield make


def folded(seq: int, epoch: int = 1) -> Folded:
    return Folded(SessionData(session_id="s-1", epoch=epoch, seq=seq, version=seq), f"e-{seq}") if seq else Folded(None)


def step(begin: int, end: int, *, anew: bool = False) -> Step:
    """From `begin` to `end`, an event for each."""
    return Step(folded(begin), folded(end), [b"%d" % n for n in range(begin + 1, end + 1)], anew)


async def events_of(copy: WorkingCopy) -> list[int]:
    [(_, events, _)] = await copy.whole(["s-1"])
    return [int(event) for event in events]


async def test_events_follow_each_other_and_the_newest_are_kept(new_copy: NewCopy) -> None:
    copy = new_copy()
    assert await copy.write([step(0, 2, anew=True)]) == [True]
    assert await copy.write([step(2, 60)]) == [True]
    assert await events_of(copy) == list(range(61 - RECENT_EVENTS, 61))
    assert await copy.write([Step(folded(60), folded(1, epoch=2), [b"1"], anew=True)]) == [True]
    assert await events_of(copy) == [1]


async def test_a_step_that_comes_again_changes_nothing(new_copy: NewCopy) -> None:
    copy = new_copy()
    for _ in range(2):
        await copy.write([step(0, 3, anew=True)])
        await copy.write([step(3, 5)])
    assert await events_of(copy) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("before", [0, 3])
async def test_what_a_writer_left_that_was_killed_counts_for_nothing(
    new_copy: NewCopy, settings: RedisSettings, redis_prefix: str, before: int
) -> None:
    copy = new_copy()
    if before:
        await copy.write([step(0, before, anew=True)])
    redis = connect(settings)
    await redis.client.rpush(f"{redis_prefix}replay:2:x:{{s-1}}:events", "4", "5", "the mark of another writer")
    await redis.close()
    written = [await copy.write([step(before, 6, anew=not before)]) for _ in range(2)]
    assert written == [[False], [True]]
    assert await events_of(copy) == [1, 2, 3, 4, 5, 6]


async def test_folding_goes_on_from_a_snapshot_and_after_the_switch(new_copy: NewCopy) -> None:
    copy = new_copy()
    snapshot = folded(3)
    await copy.seed([(snapshot, [b"2", b"3"])])
    assert await copy.write([step(3, 5)]) == [True]
    assert await events_of(copy) == [2, 3, 4, 5]
    session = folded(5).session
    assert session is not None
    assert await copy.switch([(session, 60.0)]) == 1
    assert await copy.write([step(5, 6)]) == [True]
    assert await copy.switch([(session, 60.0)]) == 1, "it is remembered"


async def test_of_writers_at_the_same_time_one_wins_and_all_events_are_there_once(new_copy: NewCopy) -> None:
    last = 200

    async def write_on(copy: WorkingCopy) -> int:
        won = 0
        while True:
            [found] = await copy.read(["s-1"])
            at = found.session.seq if found.session is not None else 0
            if at >= last:
                return won
            # Of the same length: nothing but its mark tells one writer's events from another's.
            [written] = await copy.write([step(at, at + 2, anew=not at)])
            won += written

    won = await asyncio.gather(*(write_on(new_copy()) for _ in range(4)))
    assert sum(won) == last / 2
    assert await events_of(new_copy()) == list(range(last + 1 - RECENT_EVENTS, last + 1))
