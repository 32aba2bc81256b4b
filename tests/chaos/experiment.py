"""One fault under traffic, and the verdict on it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson

from ops.local.process import ServerProcess
from tests.chaos.ledger import Ledger, Row
from tests.chaos.traffic import Traffic
from tests.processes import Pipeline, Process

ALL = "LDOURXC"
SETTLED_WITHIN_S = 60.0


class Experiment:
    """A pipeline under traffic, a fault, and what verify and the customers say of it afterwards."""

    def __init__(self, name: str, pipeline: Pipeline, rng: random.Random, ledger: Ledger, customers: int) -> None:
        self.name = name
        self.pipeline = pipeline
        self.rng = rng
        self.traffic = Traffic(pipeline, rng, customers=customers)
        self.note = ""
        """What the report says of it beside the figures."""
        self._ledger = ledger
        self._windows: list[tuple[float, float]] = []

    async def start(self, *, workers: Sequence[Process], ingresses: Sequence[Process], system: bool = True) -> None:
        """Returns when all are ready and the first answers came."""
        assert workers
        await asyncio.to_thread(self.pipeline.ready)
        await self.traffic.start(ingresses, system=system)

    @asynccontextmanager
    async def fault(self) -> AsyncIterator[None]:
        """The fault lasts as long as the block. Several blocks count together."""
        begin = time.monotonic()
        yield
        self._windows.append((begin, time.monotonic()))

    @property
    def messages_through(self) -> int:
        return sum(any(said.open_between(*window) for window in self._windows) for said in self.traffic.said)

    async def killed_itself(self, process: Process, within_s: float = 60.0) -> None:
        """Returns when a process with a failpoint has reached it."""
        deadline = time.monotonic() + within_s
        while process.server.running:
            self.traffic.raise_what_failed()
            assert time.monotonic() < deadline, f"{process.server.name} never came to its failpoint"
            await asyncio.sleep(0.02)
        assert self.exit_code(process.server) == -9, f"{process.server.name} did not die of its failpoint"

    @staticmethod
    def exit_code(server: ServerProcess) -> int:
        return server.stop()

    async def finish(
        self, *, invariants: str = ALL, clocks_agree: bool = True, recovers: bool = True
    ) -> dict[str, Any]:
        """Ends the traffic, then asks the checker and the customers; adds the row. With `clocks_agree` false, sessions
        may live longer or shorter than the times in their events say. With `recovers` false, as where the store loses
        what it had, the edge may tell customers that it can't show them everything that they missed."""
        assert self._windows, "there was no fault"
        await self.traffic.stop()
        found = await self.verify()
        assert found["ok"], f"{self.name}: {broken(found)}"
        rebuilt = await self.rebuilt()
        sessions, fields = rebuilt["sessions"], set(rebuilt["fields"])
        only_lives = not (sessions["created"] or sessions["removed"]) and fields == {"expires_in_seconds"}
        same = not rebuilt["differs"] or (only_lives and not clocks_agree)
        assert same, f"{self.name}: a rebuild differs: {sessions}, {rebuilt['first'][:3]}"
        assert not self.traffic.complaints, f"{self.name}: {self.traffic.complaints[:5]}"
        lost = self.traffic.not_recovered
        assert not (recovers and lost), f"{self.name}: {lost} times the edge could not bring back what was missed"
        assert self.messages_through > 0, f"{self.name}: no message went through the fault"
        self.add_row(found, invariants)
        return found

    def add_row(self, found: dict[str, Any], invariants: str) -> None:
        """What the report says of this fault, by verify's findings and by what the workers counted."""
        workers = [worker for worker in self.pipeline.workers if worker.is_ready()]
        again = sum(worker.metric("supportstream_turn_seconds_count", outcome="duplicate") for worker in workers)
        self._ledger.add(
            Row(
                self.name,
                self.messages_through,
                invariants,
                round(self.traffic.longest_wait(), 2),
                int(again) + found["records"].get("published_again", 0),
                int(sum(map(refused_writes, workers))),
                self.note,
            )
        )

    def begin_anew(self) -> Traffic:
        """Other customers from here on; returns the traffic of those before."""
        before = self.traffic
        self.traffic = Traffic(self.pipeline, self.rng, customers=len(before.customers))
        return before

    async def verify(self) -> dict[str, Any]:
        """What `supportstream verify` says, once everything is done."""
        done = await asyncio.to_thread(self.pipeline.run, "verify", "--json", "--wait", f"{SETTLED_WITHIN_S:g}")
        assert done.stdout, done.stderr
        found: dict[str, Any] = orjson.loads(done.stdout)
        return found

    async def rebuilt(self) -> dict[str, Any]:
        """R, with times to live: what `supportstream replay` would change of the sessions as they are now."""
        done = await asyncio.to_thread(self.pipeline.run, "replay", "--json")
        assert done.stdout, done.stderr
        found: dict[str, Any] = orjson.loads(done.stdout)
        return found


def refused_writes(worker: Process) -> float:
    """How many the store refused this worker: by its fence, or because the session had moved on."""
    try:
        return worker.metric("supportstream_fenced_writes_total") + worker.metric("supportstream_stale_writes_total")
    except httpx.HTTPError:
        return 0.0


def broken(found: dict[str, Any]) -> dict[str, Any]:
    """The breaches in a report, the first of each invariant."""
    return {
        name: {"count": each["count"], "first": each["first"][:3]}
        for name, each in found["breaches"].items()
        if each["count"]
    }
