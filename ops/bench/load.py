"""The load generator: customers in a closed loop, each waiting for its reply before it writes again.

Runs as a process of its own, so that it costs both sides of a comparison the same:

    python -m ops.bench.load --port 8000 --clients 200 --warm-up 2 --seconds 5

Prints one JSON line per phase, `{"phase": "measuring"}` when the warm-up is over, whose turns are dropped,
and `{"phase": "measured"}` when the measured time is, and at last the fields of `Measured`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import orjson
import uvloop

from ops.bench import texts
from ops.bench.customer import Customer

HOST = "127.0.0.1"

Phase = Literal["measuring", "measured"]


@dataclass(frozen=True)
class Plan:
    """How many customers of 127.0.0.1:`port` for how long; `turns` ends the measured time earlier."""

    port: int
    clients: int
    warm_up_s: float
    measured_s: float
    turns: int | None = None
    unique_texts: bool = False
    patience_s: float = 30.0
    """How long everyone's welcome may take, and the last replies when the measured time is over."""

    def texts(self) -> Iterator[str]:
        """The texts that all customers share, in the order in which they are written."""
        return texts.unique() if self.unique_texts else texts.repeated()


@dataclass(frozen=True)
class Measured:
    """What the customers saw of the turns that ended in the measured time."""

    turns: int
    seconds: float
    turns_per_s: float
    p50_ms: float
    p99_ms: float
    generator_cpu_s: float
    errors: dict[str, int]
    """Reason → how many customers stopped because of it, in the whole run. Empty when all is well."""


class Tally:
    """Hears of every turn of all customers and keeps those that end in the measured time."""

    def __init__(self, clients: int, turns: int | None) -> None:
        self.everyone_is_in = asyncio.Event()
        self.over = asyncio.Event()
        self.everyone_is_out = asyncio.Event()
        self._not_in = self._not_out = clients
        self._turns = turns
        self._phase: Phase | None = None
        self._latencies_s: list[float] = []
        self._errors: Counter[str] = Counter()
        self._started_at = self._started_cpu_s = self._seconds = self._cpu_s = 0.0

    def welcomed(self) -> None:
        self._not_in -= 1
        if not self._not_in:
            self.everyone_is_in.set()

    def answered(self, sent_at: float, received_at: float) -> bool:
        if self._phase == "measuring":
            self._latencies_s.append(received_at - sent_at)
            if len(self._latencies_s) == self._turns:
                self.over.set()
        elif self._phase == "measured":
            self._one_is_out()
            return False
        return True

    def failed(self, reason: str) -> None:
        self._errors[reason] += 1
        self.everyone_is_in.set()
        self.over.set()  # with one customer less it is another load: no figure of it counts
        self._one_is_out()

    def begin(self) -> None:
        """The warm-up is over."""
        self._phase = "measuring"
        self._started_at, self._started_cpu_s = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """The measured time is over: customers stop with the reply they wait for."""
        self._phase = "measured"
        self._seconds = time.perf_counter() - self._started_at
        self._cpu_s = time.process_time() - self._started_cpu_s

    def result(self) -> Measured:
        """Whoever still waits when this is called is an error."""
        if self._not_out:
            self._errors["no answer"] += self._not_out
        latencies_ms = sorted(latency_s * 1000 for latency_s in self._latencies_s)
        return Measured(
            turns=len(latencies_ms),
            seconds=self._seconds,
            turns_per_s=len(latencies_ms) / self._seconds,
            p50_ms=percentile(latencies_ms, 0.50),
            p99_ms=percentile(latencies_ms, 0.99),
            generator_cpu_s=self._cpu_s,
            errors=dict(self._errors),
        )

    def _one_is_out(self) -> None:
        self._not_out -= 1
        if not self._not_out:
            self.everyone_is_out.set()


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); NaN of none."""
    return ascending[math.ceil(share * len(ascending)) - 1] if ascending else math.nan


async def generate(plan: Plan, announce: Callable[[Phase], None]) -> Measured:
    """Carry out `plan`, announcing each phase as it begins.

    Raises OSError when a connection is refused. What goes wrong later is in the result's `errors`.
    """
    loop = asyncio.get_running_loop()
    tally = Tally(plan.clients, plan.turns)
    sequence = plan.texts()
    customers: list[Customer] = []
    for _ in range(plan.clients):
        _, customer = await loop.create_connection(
            lambda: Customer(f"{HOST}:{plan.port}", tally, sequence), HOST, plan.port
        )
        customers.append(customer)
    if await happens_within(plan.patience_s, tally.everyone_is_in):
        for customer in customers:
            customer.speak()
        await happens_within(plan.warm_up_s, tally.over)
    tally.begin()
    announce("measuring")
    await happens_within(plan.measured_s, tally.over)
    tally.end()
    announce("measured")
    await happens_within(plan.patience_s, tally.everyone_is_out)
    for customer in customers:
        customer.leave()
    return tally.result()


async def happens_within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for `event` for at most `seconds`; tell whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def print_phase(phase: Phase) -> None:
    print(orjson.dumps({"phase": phase}).decode(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Customers in a closed loop against a WebSocket edge.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds whose turns are dropped")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds that are measured")
    parser.add_argument("--turns", type=int, help="end when so many turns are measured")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds for all welcomes and last replies")
    parser.add_argument("--unique-texts", action="store_true", help="no two messages are equal")
    options = parser.parse_args()
    plan = Plan(
        port=options.port,
        clients=options.clients,
        warm_up_s=options.warm_up,
        measured_s=options.seconds,
        turns=options.turns,
        unique_texts=options.unique_texts,
        patience_s=options.patience,
    )
    measured = uvloop.run(generate(plan, print_phase))
    print(orjson.dumps(asdict(measured)).decode(), flush=True)


if __name__ == "__main__":
    main()
