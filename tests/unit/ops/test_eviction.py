"""Whether Redis may drop conversations, what is made of it at the start, and when a rise of evicted keys is told."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from ops.errors import OpsError
from ops.eviction import EvictionCount, check_eviction, eviction_problem, evictions_counted, refuse_eviction
from ops.settings import Settings
from store.errors import StoreUnavailable
from store.memory import MemorySessionStore
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from store.redis.statistics import Eviction
from tests.polling import eventually

KEEPS = Eviction(("noeviction",))
DEVELOPMENT = Settings(_env_file=None)
PRODUCTION = Settings(_env_file=None, environment="production", token_secret="s" * 32)


class Told(RedisSessionStore):
    """A store in Redis that answers with what the test says, one after the other, the last one again and again."""

    def __init__(self, *answers: Eviction | Exception) -> None:
        super().__init__(connect(RedisSettings("redis://127.0.0.1:1/0")), ttl_seconds=60.0)
        self._answers = list(answers)

    async def eviction(self) -> Eviction:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl", "allkeys-lru", "allkeys-random"])
async def test_a_policy_that_drops_keys_is_refused_in_production_and_warned_of_elsewhere(
    policy: str, logs: list[EventDict]
) -> None:
    store = Told(Eviction(("noeviction", policy)))
    with pytest.raises(OpsError, match=rf"maxmemory-policy {policy}: .*CONFIG SET maxmemory-policy noeviction"):
        await refuse_eviction(PRODUCTION, store)
    assert logs == []
    await refuse_eviction(DEVELOPMENT, store)
    assert [(each["event"], each["log_level"], policy in each["problem"]) for each in logs] == [
        ("redis_may_evict", "warning", True)
    ]


@pytest.mark.parametrize("settings", [DEVELOPMENT, PRODUCTION])
async def test_a_redis_that_keeps_everything_is_not_spoken_of(settings: Settings, logs: list[EventDict]) -> None:
    await refuse_eviction(settings, Told(KEEPS))
    await refuse_eviction(settings, MemorySessionStore(ttl_seconds=60.0))
    assert logs == []


@pytest.mark.parametrize("settings", [DEVELOPMENT, PRODUCTION])
async def test_a_redis_that_does_not_tell_is_a_warning_also_in_production(settings: Settings) -> None:
    warning = await check_eviction(settings, Told(Eviction(not_told="Redis refuses INFO: no permissions")))
    assert warning is not None
    assert "can't be checked (Redis refuses INFO: no permissions)" in warning


def test_only_policies_that_drop_keys_are_named() -> None:
    assert eviction_problem(KEEPS) is None
    assert eviction_problem(Eviction(not_told="no INFO")) is None
    problem = eviction_problem(Eviction(("allkeys-lru", "noeviction")))
    assert problem is not None
    assert "maxmemory-policy allkeys-lru:" in problem


def rises(*counts: int) -> list[int]:
    count = EvictionCount()
    return [count.rise(each) for each in counts]


def test_a_rise_is_told_once_until_it_has_ended() -> None:
    assert rises(7, 7) == [0, 0], "what was evicted before this process began"
    assert rises(0, 3, 5, 9, 9, 10) == [0, 3, 0, 0, 0, 1]


def test_a_server_that_counts_anew_is_no_rise() -> None:
    assert rises(9, 0, 2, 1) == [0, 0, 2, 0]


@given(st.lists(st.integers(0, 5), max_size=20))
def test_a_rise_is_never_told_twice_in_a_row(counts: list[int]) -> None:
    told = rises(*counts)
    assert all(not (before and after) for before, after in pairwise(told))
    assert all(more >= 0 for more in told)


async def test_counting_goes_on_after_an_unknown_error(logs: list[EventDict]) -> None:
    """An exception type that the code does not know must not end the task."""
    shown: list[int] = []
    store = Told(
        Eviction(("allkeys-lru",), 2), StoreUnavailable("away"), ZeroDivisionError("?"), Eviction(("allkeys-lru",), 5)
    )

    async def counted() -> bool:
        return 5 in shown

    async with evictions_counted(store, shown.append, every_seconds=0.001):
        await eventually(counted, "the count after the failures")
    assert shown[0] == 2
    events = [each["event"] for each in logs]
    assert (events.count("redis_evicts"), events.count("evictions_not_counted")) == (1, 1)
    [told] = [each for each in logs if each["event"] == "redis_evicts"]
    assert (told["keys"], told["evicted_keys"]) == (3, 5)


async def test_a_policy_that_changes_while_the_process_runs_is_warned_of_once(logs: list[EventDict]) -> None:
    shown: list[int] = []
    store = Told(KEEPS, Eviction(("volatile-ttl",), 1), Eviction(("volatile-ttl",), 1), Eviction(("volatile-ttl",), 9))

    async def counted() -> bool:
        return 9 in shown

    async with evictions_counted(store, shown.append, every_seconds=0.001):
        await eventually(counted, "the last count")
    assert [each["event"] for each in logs].count("redis_may_evict") == 1
