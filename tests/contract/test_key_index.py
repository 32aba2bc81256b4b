"""The index of session keys: in Redis, alone and as a cluster, as in memory."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ops.local.redis import RedisServer
from ops.local.redis_call import call
from ops.local.redis_cluster import RedisCluster
from store.redis.connect import RedisSettings, connect
from store.redis.key_index import RedisKeyIndex
from store.session_keys import DESTROYED, IndexedKey, KeyIndex, Mark
from tests.contract.keys import MemoryKeyIndex

ONE = IndexedKey("01" * 16, b"\x01wrapped @ \x00\xff one", 7)
TWO = IndexedKey("02" * 16, b"\x01two", 8)


@pytest.fixture(params=["memory", "redis", "cluster"])
async def index(
    request: pytest.FixtureRequest, redis_server: RedisServer, redis_prefix: str
) -> AsyncIterator[KeyIndex]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            yield MemoryKeyIndex()
            return
        url = redis_server.url
        if request.param == "cluster":
            cluster: RedisCluster = request.getfixturevalue("redis_cluster")
            url = f"redis+cluster://{cluster.url.removeprefix('redis://')}"
        made = RedisKeyIndex(connect(RedisSettings(url)), key_prefix=redis_prefix)
        stack.push_async_callback(made.close)
        yield made


async def test_the_first_key_seals_and_all_can_be_found(index: KeyIndex) -> None:
    assert await index.current("s") is None
    assert await index.offer("s", ONE) == ONE
    assert await index.offer("s", TWO) == ONE
    assert await index.current("s") == ONE
    assert await index.find([("s", TWO.key_id), ("other", ONE.key_id), ("s", ONE.key_id)]) == [TWO, None, ONE]
    assert sorted(await index.ids("s")) == [ONE.key_id, TWO.key_id]


async def test_two_that_offer_at_once_are_told_the_same(index: KeyIndex) -> None:
    told = await asyncio.gather(index.offer("s", ONE), index.offer("s", TWO))
    assert told[0] == told[1]
    assert len(await index.ids("s")) == 2


async def test_a_later_wrapping_takes_the_place_of_an_earlier_one_and_never_the_other_way_round(
    index: KeyIndex,
) -> None:
    later = IndexedKey(ONE.key_id, b"\x01anew", 99)
    await index.offer("s", ONE)
    assert await index.offer("s", later) == later
    assert await index.offer("s", ONE) == later
    assert await index.find([("s", ONE.key_id)]) == [later]


async def test_a_destroyed_key_is_known_as_such_and_never_comes_back(index: KeyIndex) -> None:
    await index.offer("s", ONE)
    await index.offer("s", TWO)
    await index.destroy("s", [ONE.key_id])
    await index.destroy("s", [ONE.key_id])
    assert await index.offer("s", ONE) is None
    assert await index.find([("s", ONE.key_id), ("s", TWO.key_id)]) == [DESTROYED, TWO]
    assert await index.ids("s") == [TWO.key_id]


async def test_after_the_sealing_key_was_destroyed_the_next_offered_seals(index: KeyIndex) -> None:
    await index.offer("s", ONE)
    await index.destroy("s", [ONE.key_id])
    assert await index.current("s") is None
    assert await index.offer("s", TWO) == TWO


async def test_destroying_nothing_changes_nothing(index: KeyIndex) -> None:
    await index.offer("s", ONE)
    await index.destroy("s", [])
    assert await index.current("s") == ONE


async def test_the_mark_moves_only_from_where_its_mover_saw_it(index: KeyIndex) -> None:
    first = await index.mark()
    assert first.offset == 0
    assert await index.save_mark(first, 5)
    assert not await index.save_mark(first, 9)
    assert await index.mark() == Mark(first.life, 5)
    assert await index.save_mark(Mark(first.life, 5), 3)
    assert (await index.mark()).offset == 3


async def test_a_later_life_begins_at_nothing_and_ends_the_one_before(index: KeyIndex) -> None:
    first = await index.mark()
    assert await index.save_mark(first, 5)
    later = await index.begin_anew()
    assert (later.offset, later.life == first.life) == (0, False)
    assert not await index.save_mark(Mark(first.life, 5), 9)
    assert await index.mark() == later


async def test_two_that_begin_at_once_agree(index: KeyIndex) -> None:
    assert len({mark.life for mark in await asyncio.gather(index.mark(), index.mark())}) == 1


async def test_an_index_that_was_flushed_begins_anew(redis_of_its_own: RedisServer) -> None:
    index = RedisKeyIndex(connect(RedisSettings(redis_of_its_own.url)), key_prefix="test:")
    try:
        before = await index.mark()
        assert await index.save_mark(before, 7)
        call(redis_of_its_own.port, "FLUSHALL")
        assert not await index.save_mark(Mark(before.life, 7), 8)
        after = await index.mark()
        assert (after.offset, after.life == before.life) == (0, False)
    finally:
        await index.close()


async def test_an_index_behind_another_server_begins_anew(tmp_path: Path) -> None:
    """A server that was restarted, or took over, may lack acknowledged writes."""
    with RedisServer(tmp_path, options=("--appendonly", "yes")) as server:
        index = RedisKeyIndex(connect(RedisSettings(server.url)), key_prefix="test:")
        try:
            before = await index.mark()
            assert await index.save_mark(before, 7)
            await index.offer("s", ONE)
            server.stop()
            server.start()
            assert await index.current("s") == ONE
            after = await index.mark()
            assert (after.offset, after.life == before.life) == (0, False)
        finally:
            await index.close()


@pytest.fixture
def redis_of_its_own(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server
