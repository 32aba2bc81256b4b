"""The processes that share a replay's work: each has a `Part`, and does what it is asked, one thing after the other.

They are forked before there is an event loop or a thread, and so are at hand at once, with everything imported: to
start them when it turns out how much is to be read took longer than to read 50,000 records.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import uvloop

from ops.errors import OpsError
from ops.replay.process import Part
from store.errors import StoreError

T = TypeVar("T")
P = ParamSpec("P")

MakePart = Callable[[Callable[[], bool]], Part]
"""Makes the part of a process, which asks what it is given whether it may go on."""


class Place(Protocol):
    """Where a part is done."""

    async def ask(self, what: Callable[Concatenate[Part, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the method `what` of the part there returns, or raises."""
        ...


class Here:
    """In this process."""

    def __init__(self, part: Part) -> None:
        self._part = part

    async def ask(self, what: Callable[Concatenate[Part, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        return await what(self._part, *args, **kwargs)


class Member:
    """In a process of its own. It is asked one thing at a time; whoever does not wait for the answer asks no more."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe

    async def ask(self, what: Callable[Concatenate[Part, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            self._pipe.send((what, args, kwargs))
            await _readable(self._pipe)
            answer: T | OpsError | StoreError = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise OpsError("A process of this replay was ended. Run it again: it goes on where it was.") from error
        if isinstance(answer, OpsError | StoreError):
            raise answer
        return answer


@contextmanager
def crew(count: int, make_part: MakePart) -> Iterator[list[Member]]:
    """So many members, for the block; begin it before the event loop. One whose parent is gone ends by itself."""
    context = multiprocessing.get_context("fork")
    # What is there already stays, and is shared as long as nobody writes to it, which looking for garbage would.
    gc.freeze()
    pipes: list[Connection[Any, Any]] = []
    processes = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            process = context.Process(target=_work, args=(theirs, list(pipes), os.getpid(), make_part), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
        yield [Member(pipe) for pipe in pipes]
    finally:
        for process in processes:
            # Whatever they are at: what counts is in Redis, and nothing there is ever half done.
            process.terminate()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()
        gc.unfreeze()


def _work(
    pipe: "Connection[Any, Any]", of_the_parent: Sequence["Connection[Any, Any]"], parent: int, make_part: MakePart
) -> None:
    """What a member does all its life. `parent` is told, not asked for: by the time that it could ask, it may be
    gone."""
    for each in of_the_parent:
        # Held open here, it would keep the other members from noticing that the parent is gone.
        each.close()
    # Ctrl+C is said to the parent as well, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is read is much and has no cycles: looking for some all the time takes as long as decoding it. What the
    # libraries leave behind is collected by generations of a size that decoding never reaches.
    gc.set_threshold(1_000_000, 10, 10)
    part: Part | None = None
    with suppress(EOFError, ConnectionError), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while True:
            what, args, kwargs = pipe.recv()
            part = part or make_part(lambda: os.getppid() == parent)
            pipe.send(runner.run(_answer(what(part, *args, **kwargs))))


async def _answer(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except (OpsError, StoreError) as error:
        return error


async def _readable(pipe: "Connection[Any, Any]") -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(pipe.fileno())


async def deal_out(
    places: Sequence[Place],
    pages: AsyncGenerator[list[str]],
    do: Callable[[Place, list[str]], Awaitable[None]],
    may_go_on: Callable[[], bool],
) -> None:
    """Does `do` with each page once, at the place that is free first.

    Raises:
        OpsError: as `all_of`.
    """
    turn = asyncio.Lock()

    async def work(place: Place) -> None:
        while True:
            async with turn:
                page = await anext(pages, None)
            if page is None:
                return
            await do(place, page)

    async with aclosing(pages):
        await all_of([work(place) for place in places], may_go_on)


async def all_of(works: Sequence[Coroutine[Any, Any, None]], may_go_on: Callable[[], bool]) -> None:
    """Runs them side by side. The first that fails ends the others.

    Raises:
        OpsError: `may_go_on`, which is asked every second, said no.
    """
    tasks = [asyncio.create_task(work) for work in works]
    left = set(tasks)
    try:
        while left:
            done, left = await asyncio.wait(left, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            if not may_go_on():
                raise OpsError("Another replay took over.")
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
