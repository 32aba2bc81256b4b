"""Grouped round trips: commands of many sessions go to Redis together.

What is asked in one turn of the event loop leaves together, at once while a link is free, else as soon as one is. So
one caller alone waits for nothing, many share the cost of a round trip, and with two links Redis works on one group
while the process makes up the next.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from store.errors import StoreError, StoreUnavailable
from store.redis.scripts import ALL_SCRIPTS, Script

_PASSING = (ReadOnlyError, OutOfMemoryError, MasterDownError, ClusterDownError, TryAgainError)
_OF_THE_COMMAND = (
    "WRONGTYPE",
    "CROSSSLOT",
    "ERR unknown command",
    "ERR wrong number",
    "ERR syntax",
    "ERR value is not",
)
"""Refusals that lie in the command or its key. All others may pass: a failover, full memory, a disk that failed, a
right that an operator withdrew; also inside a script, where they come behind the script's own words."""

Command = tuple[Any, ...]


class Link(Protocol):
    """The way to one Redis, in whichever form it runs."""

    async def exchange(self, commands: list[Command]) -> list[Any]:
        """The responses, refusals among them as exceptions. A link that fails is made anew and everything sent again:
        a command may run twice.

        Raises:
            RedisError, RedisClusterException, OSError: no responses came.
            StoreReplaced: another server answers than before (`accept_server`).
        """
        ...

    async def load_scripts(self, texts: list[str]) -> None:
        """Makes EVALSHA know the scripts, on every server. Raises as `exchange`."""
        ...

    def accept_server(self) -> None:
        """Lets commands pass to the server that answers now."""
        ...

    @property
    def server(self) -> str:
        """The identity of the server that answered last; empty where it isn't told."""
        ...

    async def close(self) -> None: ...


class RoundTrips:
    """Runs commands over links to the same Redis, on each link one group at a time of at most `max_group` commands.

    A caller that finds a link free and asks alone sends its own command. Groups are sent by tasks, so that a caller
    that is cancelled does not take others along. Commands that wait for each other's responses keep their order;
    others have none.
    """

    def __init__(self, links: Sequence[Link], *, max_group: int = 256) -> None:
        self._links = links
        self._free = list(links)
        self._max_group = max_group
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._gathering = False
        """A caller that has a link waits a moment for others."""
        self._senders: set[asyncio.Task[None]] = set()
        self._wanted: deque[asyncio.Future[Link]] = deque()
        """Callers of `run_group` that wait for a link, longest first."""
        self._group_is_next = False

    async def run(self, *command: Any) -> Any:
        """The command's response. Its arguments are text, bytes or numbers, its name a single word.

        Raises:
            StoreReplaced: another server answers than before; the command did not run there.
            StoreUnavailable: no response came; the command may have run.
            StoreError: Redis refused the command.
        """
        if self._gathering or not self._free:
            return await self._queued(command)
        link = self._free.pop()
        self._gathering = True
        try:
            # What is asked in the same turn of the event loop goes along.
            await asyncio.sleep(0)
        except BaseException:
            self._pass_on(link)
            raise
        finally:
            self._gathering = False
        if self._waiting:
            response = self._queued(command)
            self._pass_on(link)
            return await response
        try:
            [response] = await self._exchange(link, [command])
        finally:
            self._pass_on(link)
        if isinstance(response, Exception):
            raise _store_error(response)
        return response

    async def run_script(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        """As `run`."""
        return await self.run("EVALSHA", script.sha, len(keys), *keys, *args)

    async def run_group(self, commands: list[Command]) -> list[Any]:
        """The responses to commands that the caller made up, in one round trip of their own. Costs less than as many
        `run`s.

        Raises:
            Others, as `run`; also where Redis refused one of the commands.
        """
        if self._free:
            link = self._free.pop()
        else:
            wanted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
            self._wanted.append(wanted)
            try:
                link = await wanted
            except BaseException:
                if wanted.done() and not wanted.cancelled():
                    self._pass_on(wanted.result())
                raise
        try:
            responses = await self._exchange(link, commands)
        finally:
            self._pass_on(link)
        for response in responses:
            if isinstance(response, Exception):
                raise _store_error(response)
        return responses

    async def exchange(self, link: int, commands: list[Command]) -> list[Any]:
        """The responses to a group that the caller made up, over one of the links; for who has many commands at once.
        Don't use one link twice at the same time, nor beside `run`.

        Raises:
            StoreError: no responses came, or Redis refused one of the commands.
        """
        responses = await self._exchange(self._links[link], commands)
        for response in responses:
            if isinstance(response, Exception):
                raise _store_error(response)
        return responses

    def accept_server(self) -> None:
        """After StoreReplaced: goes on with the server that answers now."""
        for link in self._links:
            link.accept_server()

    @property
    def server(self) -> str:
        """The identity of the server that answered last; empty where it isn't told."""
        return self._links[0].server

    async def close(self) -> None:
        while self._senders:
            await asyncio.wait(self._senders)
        for link in self._links:
            await link.close()

    def _queued(self, command: Command) -> "asyncio.Future[Any]":
        """The response to come."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        return future

    def _pass_on(self, link: Link) -> None:
        """Hands a free link to the commands that wait, or returns it to the pool."""
        # Groups and single commands take turns where both wait, so that neither waits for ever.
        self._group_is_next = not self._group_is_next
        while self._wanted and (self._group_is_next or not self._waiting):
            if not (wanted := self._wanted.popleft()).done():
                wanted.set_result(link)
                return
        if not self._waiting:
            self._free.append(link)
            return
        group, self._waiting = self._waiting[: self._max_group], self._waiting[self._max_group :]
        sender = asyncio.get_running_loop().create_task(self._send(link, group), name="redis-round-trips")
        self._senders.add(sender)
        sender.add_done_callback(self._senders.discard)

    async def _send(self, link: Link, group: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            responses = await self._exchange(link, [command for command, _ in group])
        except StoreError as error:
            responses = [error] * len(group)
        except BaseException:
            # The process ends. The callers were not cancelled, so they are told what they can handle.
            for _, future in group:
                if not future.done():
                    future.set_exception(StoreUnavailable("The connection to Redis was closed."))
            raise
        finally:
            self._pass_on(link)
        for (_, future), response in zip(group, responses, strict=True):
            if future.done():
                continue
            if isinstance(response, Exception):
                future.set_exception(_store_error(response))
            else:
                future.set_result(response)

    async def _exchange(self, link: Link, commands: list[Command]) -> list[Any]:
        try:
            responses = await link.exchange(commands)
            again = [i for i, response in enumerate(responses) if isinstance(response, NoScriptError)]
            if again:
                # Redis restarted or was told SCRIPT FLUSH; none of the refused scripts ran.
                await link.load_scripts([script.text for script in ALL_SCRIPTS])
                for i, response in zip(again, await link.exchange([commands[i] for i in again]), strict=True):
                    responses[i] = response
        except Exception as error:
            # Any exception of a connection, known or not (uvloop raises RuntimeError after a reset), means the same.
            raise _store_error(error) from error
        return responses


def _store_error(error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, ResponseError) and not isinstance(error, _PASSING):
        if str(error).startswith(_OF_THE_COMMAND) or "WRONGTYPE" in str(error):
            return StoreError(f"Redis refused a command: {error}")
        return StoreUnavailable(f"Redis refuses commands at the moment: {error}")
    return StoreUnavailable(f"Redis does not answer: {error or type(error).__name__}")
