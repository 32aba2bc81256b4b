"""Commands of many callers in groups, over links that are made up here: what leaves together, and who hears what."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from store.errors import StoreError, StoreUnavailable
from store.redis.round_trips import Command, RoundTrips


class HandLink:
    """A link on which nothing comes back before it is told to. Answers each command with its last word."""

    def __init__(self, *, held: bool = False) -> None:
        self.groups: list[list[Command]] = []
        self.failure: Exception | None = None
        self._go_on = asyncio.Event()
        if not held:
            self._go_on.set()

    def let_go(self) -> None:
        self._go_on.set()

    async def exchange(self, commands: list[Command]) -> list[Any]:
        self.groups.append(commands)
        await self._go_on.wait()
        if self.failure is not None:
            raise self.failure
        return [ResponseError("ERR unknown command") if command[0] == "BAD" else command[-1] for command in commands]

    async def load_scripts(self, texts: list[str]) -> None: ...

    def accept_server(self) -> None: ...

    server = ""

    async def close(self) -> None: ...


async def turns_of_the_loop(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_caller_alone_is_a_group_of_one() -> None:
    link = HandLink()
    assert await RoundTrips([link]).run("GET", "a") == "a"
    assert link.groups == [[("GET", "a")]]


async def test_who_asks_in_the_same_turn_of_the_loop_goes_along() -> None:
    one, two = HandLink(), HandLink()
    trips = RoundTrips([one, two])
    assert await asyncio.gather(*(trips.run("GET", n) for n in range(5))) == [0, 1, 2, 3, 4]
    assert sorted(map(len, one.groups + two.groups)) == [5]


async def test_a_group_is_under_way_on_each_link_and_the_rest_waits_for_one_of_them() -> None:
    links = [HandLink(held=True), HandLink(held=True)]
    trips = RoundTrips(links)
    asked = []
    for wave in ("first", "second", "third"):
        asked += [asyncio.create_task(trips.run("GET", f"{wave}{n}")) for n in range(3)]
        await turns_of_the_loop()
    assert [[len(group) for group in link.groups] for link in links] == [[3], [3]]
    links[0].let_go()
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    await turns_of_the_loop()
    assert [[len(group) for group in link.groups] for link in links] == [[3, 3], [3]]
    links[1].let_go()
    assert await asyncio.gather(*asked) == [f"{wave}{n}" for wave in ("first", "second", "third") for n in range(3)]


async def test_a_group_has_a_largest_size() -> None:
    link = HandLink()
    trips = RoundTrips([link], max_group=2)
    assert await asyncio.gather(*(trips.run("GET", n) for n in range(5))) == [0, 1, 2, 3, 4]
    assert [len(group) for group in link.groups] == [2, 2, 1]


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_who_goes_away_takes_nobody_along(turns: int) -> None:
    """Whatever it was doing: gathering others, waiting with them, or on its way alone."""
    link = HandLink(held=True)
    trips = RoundTrips([link])
    asked = [asyncio.create_task(trips.run("GET", n)) for n in range(3)]
    await turns_of_the_loop(turns)
    asked[0].cancel()
    link.let_go()
    assert await asyncio.gather(*asked[1:]) == [1, 2]
    assert await trips.run("GET", "after") == "after"


async def test_one_who_is_alone_and_goes_away_leaves_the_link_to_the_next() -> None:
    link = HandLink(held=True)
    trips = RoundTrips([link])
    alone = asyncio.create_task(trips.run("GET", "a"))
    await turns_of_the_loop()
    alone.cancel()
    await asyncio.wait([alone])
    link.let_go()
    assert await trips.run("GET", "b") == "b"


async def test_a_refusal_is_heard_by_whoever_asked_for_it() -> None:
    trips = RoundTrips([HandLink()])
    outcomes = await asyncio.gather(trips.run("GET", "a"), trips.run("BAD"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [str, StoreError]
    with pytest.raises(StoreError, match="unknown command"):
        await trips.run("BAD")


async def test_a_link_that_fails_fails_its_group_and_serves_the_next() -> None:
    link = HandLink()
    trips = RoundTrips([link])
    link.failure = RedisConnectionError("gone")
    outcomes = await asyncio.gather(*(trips.run("GET", n) for n in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    link.failure = None
    assert await trips.run("GET", "a") == "a"
    await trips.close()


@pytest.mark.parametrize(
    "refusal",
    [
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "ERR Error running script (call to f_1): @user_script:43: -OOM command not allowed",
        "ERR Error running script (call to f_1): @user_script:43: -READONLY no writes to a replica.",
    ],
)
async def test_a_refusal_that_does_not_lie_in_the_command_is_waited_for(refusal: str) -> None:
    """L: otherwise healthy messages become dead letters while an operator's mistake lasts."""

    class Refusing(HandLink):
        async def exchange(self, commands: list[Any]) -> list[Any]:
            return [ResponseError(refusal) for _ in commands]

    with pytest.raises(StoreUnavailable):
        await RoundTrips([Refusing()]).run("EVALSHA")


async def test_a_group_has_its_turn_while_single_commands_never_end() -> None:
    """P"""
    trips = RoundTrips([HandLink()])
    ends = asyncio.Event()

    async def busy() -> None:
        while not ends.is_set():
            await trips.run("GET", "a")
            await asyncio.sleep(0)

    callers = [asyncio.create_task(busy()) for _ in range(600)]
    async with asyncio.timeout(5.0):
        assert await trips.run_group([("GET", "x"), ("GET", "y")]) == ["x", "y"]
    ends.set()
    await asyncio.wait(callers)


async def test_a_group_that_is_cancelled_as_it_gets_its_link_hands_it_on() -> None:
    """P: a link that is lost is missing for ever."""
    busy, handed_over = HandLink(held=True), HandLink()
    trips = RoundTrips([busy])
    first = asyncio.create_task(trips.run_group([("GET", "a")]))
    second = asyncio.create_task(trips.run_group([("GET", "b")]))
    await turns_of_the_loop()
    # The moment between the handing over and the waiter's next step.
    trips._wanted.popleft().set_result(handed_over)
    second.cancel()
    await asyncio.wait([second])
    async with asyncio.timeout(2.0):
        assert await trips.run("GET", "c") == "c"
    busy.let_go()
    await first
