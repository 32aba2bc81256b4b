"""Compares what was rebuilt with what is live, and, if told so, puts it in its place."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ops.replay.comparison import Difference, compare, compare_events
from ops.replay.outcome import Outcome
from ops.replay.selection import Selection
from schemas.session import SessionData
from store.redis.working_copy import Pair, WorkingCopy

_BORN_MEANWHILE_SECONDS = 60.0
"""How far the clocks of workers and of who replays may be apart."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all sessions of a replay."""

    execute: bool
    """Put what was rebuilt in its place."""
    started: float
    """When the reading did, in seconds since 1970."""
    cut: bool
    """The topic has not all events that there ever were."""


class Comparing:
    """The comparison of some sessions; what it finds and does goes into an `Outcome`.

    `incomplete`, wherever it is asked for, are those of them of which events are not retained.
    """

    def __init__(
        self,
        copy: WorkingCopy,
        selection: Selection,
        outcome: Outcome,
        terms: Terms,
        *,
        ttl_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """`ttl_seconds`: how long a session lives that says nothing else."""
        self._copy = copy
        self._selection = selection
        self._outcome = outcome
        self._terms = terms
        self._ttl_seconds = ttl_seconds
        self._clock = clock

    async def rebuilt(self, session_ids: list[str], incomplete: Collection[str]) -> list[str]:
        """Sessions that were rebuilt. Returns those that are ahead of what was read."""
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
        if self._terms.execute and switching:
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

    async def live(self, session_ids: list[str], incomplete: Collection[str]) -> None:
        """Sessions that are live: which of them were not rebuilt, and what that means."""
        removing: list[Pair] = []
        for pair in await self._copy.pairs(await self._copy.lacking(session_ids)):
            difference = self._lacking(pair, cut=self._terms.cut or pair.session_id in incomplete)
            if difference is None:
                continue
            self._outcome.add(difference)
            if difference.kind == "removed":
                removing.append(pair)
        if self._terms.execute and removing:
            self._outcome.removed += await self._copy.remove(removing)

    def _lacking(self, pair: Pair, *, cut: bool) -> Difference | None:
        if pair.rebuilt is not None or not (pair.live or pair.unreadable):
            return None
        if pair.live is not None and not self._selection.takes(pair.live):
            return None
        if cut:
            return Difference(pair.session_id, "not_retained")
        # A session that began after the reading did has its first reply on the way.
        born = pair.live_epoch / 1000
        late = born >= self._terms.started - _BORN_MEANWHILE_SECONDS
        return Difference(pair.session_id, "ahead" if late else "removed")
