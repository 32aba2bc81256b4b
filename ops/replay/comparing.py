"""Compares what was rebuilt with what is live, and, if told so, puts it in its place."""

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing

from ops.replay.comparison import Difference, compare, compare_events
from ops.replay.outcome import Outcome
from ops.replay.selection import Selection
from schemas.session import SessionData
from store.redis.working_copy import Pair, WorkingCopy

_BORN_MEANWHILE_SECONDS = 60.0
"""How far the clocks of workers and of who replays may be apart."""


class Comparing:
    """One replay's comparison; what it finds and does goes into an `Outcome`.

    `incomplete`, wherever it is asked for, are the sessions of which events are not retained.
    """

    def __init__(
        self,
        copy: WorkingCopy,
        selection: Selection,
        outcome: Outcome,
        *,
        ttl_seconds: float,
        started: float,
        execute: bool,
        clock: Callable[[], float],
    ) -> None:
        """`ttl_seconds`: how long a session lives that says nothing else. `started`: when the reading did, in seconds
        since 1970."""
        self._copy = copy
        self._selection = selection
        self._outcome = outcome
        self._ttl_seconds = ttl_seconds
        self._started = started
        self._execute = execute
        self._clock = clock

    async def rebuilt(self, advance: Callable[[int, int | None], None], incomplete: Collection[str]) -> list[str]:
        """All that were rebuilt. Returns the sessions that are ahead of what was read."""
        ahead: list[str] = []
        done = 0
        async with aclosing(self._copy.pages()) as pages:
            async for page in pages:
                ahead += await self.some(page, incomplete)
                done += len(page)
                advance(done, None)
        return ahead

    async def some(self, session_ids: list[str], incomplete: Collection[str]) -> list[str]:
        """These of them; returns as `rebuilt`."""
        now = self._clock()
        ahead = []
        switching: list[tuple[SessionData, float]] = []
        for session, difference in await self._differences(session_ids, incomplete, now):
            if difference.kind == "ahead":
                ahead.append(difference.session_id)
                continue
            self._outcome.add(difference)
            if difference.kind in ("created", "changed"):
                switching.append((session, session.expires_at(self._ttl_seconds) - now))
        if self._execute and switching:
            self._outcome.switched += await self._copy.switch(switching)
        return ahead

    async def _differences(
        self, session_ids: list[str], incomplete: Collection[str], now: float
    ) -> list[tuple[SessionData, Difference]]:
        found: dict[str, tuple[SessionData, Difference]] = {}
        for pair in await self._copy.pairs(session_ids):
            if pair.rebuilt is None or not self._selection.takes(pair.rebuilt):
                continue
            if pair.switched:
                self._outcome.switched += 1
            elif pair.session_id in incomplete:
                found[pair.session_id] = pair.rebuilt, Difference(pair.session_id, "not_retained")
            else:
                found[pair.session_id] = pair.rebuilt, compare(pair, ttl_seconds=self._ttl_seconds, now=now)
        alike = [session_id for session_id, (_, difference) in found.items() if difference.kind == "same"]
        for session_id, (rebuilt, live) in zip(alike, await self._copy.event_digests(alike), strict=True):
            if changes := compare_events(live, rebuilt):
                found[session_id] = found[session_id][0], Difference(session_id, "changed", changes)
        return list(found.values())

    async def lacking(self, incomplete: Collection[str], *, cut: bool) -> None:
        """Live sessions that were not rebuilt. `cut`: the topic has not all events that there ever were."""
        async with aclosing(self._lacking_pages()) as pages:
            async for page in pages:
                removing: list[Pair] = []
                for pair in await self._copy.pairs(page):
                    difference = self._lacking(pair, cut=cut or pair.session_id in incomplete)
                    if difference is None:
                        continue
                    self._outcome.add(difference)
                    if difference.kind == "removed":
                        removing.append(pair)
                if self._execute and removing:
                    self._outcome.removed += await self._copy.remove(removing)

    async def _lacking_pages(self) -> AsyncGenerator[list[str]]:
        if self._selection.sessions:
            found = await self._copy.pairs(sorted(self._selection.sessions))
            yield [pair.session_id for pair in found if pair.rebuilt is None]
            return
        if self._selection.partitions:
            # Which partition an unknown session's events would be in can't be told for sure.
            return
        async with aclosing(self._copy.live_pages()) as pages:
            async for page in pages:
                if meant := [session_id for session_id in page if self._selection.takes_id(session_id)]:
                    yield meant

    def _lacking(self, pair: Pair, *, cut: bool) -> Difference | None:
        if pair.rebuilt is not None or not (pair.live or pair.unreadable):
            return None
        if pair.live is not None and not self._selection.takes(pair.live):
            return None
        if cut:
            return Difference(pair.session_id, "not_retained")
        # A session that began after the reading did has its first reply on the way.
        born = pair.live_epoch / 1000
        return Difference(pair.session_id, "ahead" if born >= self._started - _BORN_MEANWHILE_SECONDS else "removed")
