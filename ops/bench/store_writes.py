"""Commits of the product's store, encrypted and in plain text, beside the floor's EVALSHA."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

from ops.bench.conversations import Conversation, WrittenTurn
from ops.bench.load import percentile
from ops.bench.measure import BenchError
from ops.bench.side_figures import Figures
from ops.bench.timing import Call, Lanes, in_flight_s, one_at_a_time_s
from store.encryption import Cipher
from store.protocol import Applied, Fence, SessionStore

IN_FLIGHT = 200
MEASURED_FROM, MEASURED_TO = 10, 30
"""A conversation is measured after its 10th turn and up to its 30th; then another one takes its place."""
BATCH_OF_ONE = 25
"""So short that what slows the machine down for a moment meets both sides."""
TURNS_IN_FLIGHT = 10
"""So long that starting and ending with few in flight doesn't count."""


class StoreWrites:
    """Conversations that are between the turns which count, and the store that they are written to."""

    def __init__(self, store: SessionStore, fence: Fence) -> None:
        self._store = store
        self._fence = fence
        self._conversations: list[Conversation] = []
        self._turns = MEASURED_TO

    async def lanes(self, count: int, calls: int) -> Lanes:
        """The next turns of `count` conversations, ready to be committed."""
        if len(self._conversations) != count or self._turns + calls > MEASURED_TO:
            self._conversations = [Conversation() for _ in range(count)]
            self._turns = MEASURED_FROM
            await in_flight_s(self._next(MEASURED_FROM))
        self._turns += calls
        return self._next(calls)

    def _next(self, turns: int) -> Lanes:
        return [commits(self._store, self._fence, conversation, turns) for conversation in self._conversations]


def commits(store: SessionStore, fence: Fence, conversation: Conversation, turns: int) -> list[Call]:
    """The next `turns` of `conversation`, ready to be committed."""
    return [partial(commit, store, fence, conversation.next_turn()) for _ in range(turns)]


async def commit(store: SessionStore, fence: Fence, turn: WrittenTurn) -> None:
    """Raises BenchError unless the store applies it."""
    outcome = await store.commit_turn(
        turn.session,
        expected_version=turn.session.version - 1,
        event_id=turn.event_id,
        fence=fence,
        reply=turn.reply,
    )
    if not isinstance(outcome, Applied):
        raise BenchError(f"the store did not apply turn {turn.session.seq} of a conversation: {outcome}")


async def fence_of(store: SessionStore) -> Fence:
    """The right of a partition's owner to write."""
    return Fence("partition", await store.next_fence())


def middle_turn(cipher: Cipher) -> bytes:
    """The bytes that a commit writes in the middle of those turns which are measured: state and reply event."""
    conversation = Conversation()
    *_, turn = (conversation.next_turn() for _ in range((MEASURED_FROM + MEASURED_TO) // 2))
    session_id = conversation.session_id
    return cipher.seal(session_id, turn.session.to_json()) + cipher.seal(session_id, turn.reply)


class Side(Protocol):
    """One way to write turns."""

    async def lanes(self, count: int, calls: int) -> Lanes:
        """`calls` writes to each of `count` sessions, ready to be made."""
        ...


class Writes:
    """The three sides. Each measures by turns, in batches that are much shorter than a second."""

    def __init__(self, encrypted: Side, plain: Side, floor: Side) -> None:
        self._sides = {"commit_turn": encrypted, "plain_commit_turn": plain, "evalsha": floor}

    async def one_at_a_time(self, seconds: float) -> Figures:
        """Latencies with nothing else under way; the sides share `seconds`."""
        taken_s: dict[str, list[float]] = {name: [] for name in self._sides}
        deadline = time.perf_counter() + seconds
        while not taken_s["evalsha"] or time.perf_counter() < deadline:
            for name, side in self._sides.items():
                taken_s[name] += await one_at_a_time_s(await side.lanes(BATCH_OF_ONE, 1))
        figures: Figures = {}
        for name, samples in taken_s.items():
            ascending_us = sorted(each * 1e6 for each in samples)
            figures[f"{name}_p50_us"] = percentile(ascending_us, 0.50)
            figures[f"{name}_p99_us"] = percentile(ascending_us, 0.99)
        return figures

    async def in_flight(self, seconds: float) -> Figures:
        """Calls a second with 200 in flight; the sides share `seconds`."""
        for side in self._sides.values():
            # The floor makes a connection for each call in flight: once, before it counts.
            await in_flight_s(await side.lanes(IN_FLIGHT, 1))
        taken_s = dict.fromkeys(self._sides, 0.0)
        calls = 0
        deadline = time.perf_counter() + seconds
        while not calls or time.perf_counter() < deadline:
            for name, side in self._sides.items():
                taken_s[name] += await in_flight_s(await side.lanes(IN_FLIGHT, TURNS_IN_FLIGHT))
            calls += IN_FLIGHT * TURNS_IN_FLIGHT
        return {f"{name}s_per_s_{IN_FLIGHT}_in_flight": calls / each for name, each in taken_s.items()}
