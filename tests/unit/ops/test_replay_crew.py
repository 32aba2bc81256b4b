"""The processes of a replay: what they are asked comes back, each page goes to one of them, and none is left behind."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, cast

import psutil
import pytest

from ops.errors import OpsError
from ops.replay.crew import Here, Member, Place, all_of, crew, deal_out
from ops.replay.process import Part
from store.errors import StoreUnavailable


class FakePart:
    """Does nothing but say where it is."""

    def __init__(self, may_go_on: Callable[[], bool]) -> None:
        self.may_go_on = may_go_on
        self.pages: list[list[str]] = []

    async def where(self) -> tuple[int, bool]:
        return os.getpid(), self.may_go_on()

    async def forget(self, page: list[str]) -> list[str]:
        await asyncio.sleep(0.001)
        self.pages.append(page)
        return page

    async def fail(self, error: Exception) -> None:
        raise error

    async def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def make(may_go_on: Callable[[], bool]) -> Part:
    return cast("Part", FakePart(may_go_on))


def asking(place: Place, what: Any, *args: Any) -> Coroutine[Any, Any, Any]:
    return place.ask(what, *args)


def in_a_crew(work: Callable[[list[Member]], Coroutine[Any, Any, None]]) -> None:
    """A crew is made before the event loop."""
    with crew(2, make) as members:
        asyncio.run(work(members))


async def pages(count: int) -> AsyncGenerator[list[str]]:
    for n in range(count):
        yield [f"s-{n}"]


def test_each_member_is_a_process_and_none_is_left() -> None:
    found: list[tuple[int, bool]] = []

    async def work(members: list[Member]) -> None:
        for _ in range(2):
            found.extend(await asyncio.gather(*(asking(each, FakePart.where) for each in members)))

    in_a_crew(work)
    assert found[:2] == found[2:], "a member goes on with the part that it has"
    pids = {pid for pid, _ in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(may_go_on for _, may_go_on in found)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_errors_that_say_what_to_do_come_back_and_the_member_goes_on() -> None:
    async def work(members: list[Member]) -> None:
        with pytest.raises(OpsError, match="upgrade it"):
            await asking(members[0], FakePart.fail, OpsError("upgrade it"))
        with pytest.raises(StoreUnavailable, match="no answer"):
            await asking(members[0], FakePart.fail, StoreUnavailable("no answer"))
        assert await asking(members[0], FakePart.forget, ["s-1"]) == ["s-1"]

    in_a_crew(work)


def test_a_member_that_is_killed_is_an_error_that_says_to_run_it_again() -> None:
    async def work(members: list[Member]) -> None:
        for _ in range(2):
            with pytest.raises(OpsError, match="Run it again"):
                await asking(members[0], FakePart.end)
        assert await asking(members[1], FakePart.forget, ["s-1"]) == ["s-1"]

    in_a_crew(work)


def test_every_page_is_dealt_out_once_and_everybody_gets_some() -> None:
    done: dict[int, list[list[str]]] = {}

    async def work(members: list[Member]) -> None:
        async def do(place: Place, page: list[str]) -> None:
            done.setdefault(id(place), []).append(await asking(place, FakePart.forget, page))

        await deal_out(members, pages(100), do, lambda: True)

    in_a_crew(work)
    assert len(done) == 2
    assert sorted(page for some in done.values() for page in some) == sorted([f"s-{n}"] for n in range(100))


async def test_one_failure_ends_the_dealing_out() -> None:
    part = FakePart(lambda: True)
    here = Here(cast("Part", part))

    async def do(place: Place, page: list[str]) -> None:
        if page == ["s-3"]:
            raise StoreUnavailable("no answer")
        await asking(place, FakePart.forget, page)

    with pytest.raises(StoreUnavailable):
        await deal_out([here, here], pages(1_000), do, lambda: True)
    assert len(part.pages) < 10


async def test_what_runs_ends_soon_when_it_may_not_go_on() -> None:
    began = time.monotonic()
    with pytest.raises(OpsError, match="took over"):
        await all_of([asyncio.sleep(60)], lambda: False)
    assert time.monotonic() < began + 10
