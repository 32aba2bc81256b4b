"""L1: sessions kept decoded beside the turn."""

from hypothesis import given
from hypothesis import strategies as st

from store.l1 import L1Cache
from tests.contract.backends import Time
from tests.contract.sessions import session

LONG = 3_600.0


def test_it_gives_back_what_was_put_last() -> None:
    cache = L1Cache(size=10, ttl_seconds=60)
    cache.put(session(seq=1), "p0", LONG)
    cache.put(session(seq=2), "p0", LONG)
    assert cache.get("s1") == session(seq=2)
    assert cache.get("s2") is None
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 1)


def test_the_least_recently_used_goes_first() -> None:
    cache = L1Cache(size=2, ttl_seconds=60)
    cache.put(session("a"), "p0", LONG)
    cache.put(session("b"), "p0", LONG)
    cache.get("a")
    cache.put(session("c"), "p0", LONG)
    assert [cache.get(name) is not None for name in "abc"] == [True, False, True]


def test_an_entry_ends_with_its_time() -> None:
    time = Time()
    cache = L1Cache(size=2, ttl_seconds=5, clock=time)
    cache.put(session(), "p0", LONG)
    time.now += 4.9
    assert cache.get("s1") is not None
    time.now += 0.2
    assert cache.get("s1") is None
    assert len(cache) == 0


def test_an_entry_ends_with_its_session() -> None:
    """An expired session is gone everywhere."""
    time = Time()
    cache = L1Cache(size=2, ttl_seconds=60, clock=time)
    cache.put(session(), "p0", lives_seconds=5)
    time.now += 4.9
    assert cache.get("s1") is not None
    time.now += 0.2
    assert cache.get("s1") is None


def test_a_revoked_partition_takes_its_sessions_along_and_no_others() -> None:
    """O"""
    cache = L1Cache(size=10, ttl_seconds=60)
    cache.put(session("a"), "p0", LONG)
    cache.put(session("b"), "p1", LONG)
    cache.put(session("c"), "p0", LONG)
    cache.drop_partition("p0")
    assert [cache.get(name) is not None for name in "abc"] == [False, True, False]
    cache.drop("b")
    cache.drop("b")
    assert len(cache) == 0


def test_a_cache_without_size_keeps_nothing() -> None:
    cache = L1Cache(size=0, ttl_seconds=60)
    cache.put(session(), "p0", LONG)
    assert cache.get("s1") is None


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=100), st.integers(1, 5))
def test_it_never_holds_more_than_its_size_nor_what_was_not_put_last(steps: list[tuple[str, bool]], size: int) -> None:
    cache = L1Cache(size=size, ttl_seconds=60)
    newest: dict[str, int] = {}
    for n, (name, puts) in enumerate(steps, 1):
        if puts:
            newest[name] = n
            cache.put(session(name, seq=n), "p0", LONG)
        elif (found := cache.get(name)) is not None:
            assert found.seq == newest[name]
        assert len(cache) <= size
