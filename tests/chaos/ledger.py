"""What the faults of a run did, collected from all of its processes."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Protocol

import orjson
import pytest

PROPERTY = "chaos"
"""A test's user property that carries a row: pytest hands these on to the process that reports."""


@dataclass(frozen=True)
class Row:
    """What one fault did to the traffic that went through it."""

    fault: str
    messages: int
    """Sent, or waiting for their answer, while it lasted."""
    invariants: str
    """Which were looked at and held."""
    longest_wait_s: float
    """Of any message in the whole run for its answer."""
    suppressed: int
    """Duplicates: records and replies that came again, and that no customer saw."""
    fenced: int
    """Writes that the store refused because a later owner had written, or the session had moved on."""
    note: str = ""


class Ledger(Protocol):
    """Where an experiment enters its rows."""

    def add(self, row: Row) -> None: ...


class ReportedLedger:
    """A ledger that a test's report carries to the process that prints."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def add(self, row: Row) -> None:
        self._item.user_properties.append((PROPERTY, asdict(row)))


@dataclass
class Collected:
    """The rows of a run."""

    rows: list[Row] = field(default_factory=list)

    def sorted(self) -> list[Row]:
        return sorted(self.rows, key=lambda row: row.fault)

    def take(self, report: pytest.TestReport) -> None:
        """The rows of a test, from the report of its call: those of its setup and teardown repeat them."""
        if report.when == "call":
            # A dict by construction; the type of user properties says only `object`.
            found = [value for name, value in report.user_properties if name == PROPERTY]
            self.rows.extend(Row(**value) for value in found)  # type: ignore[arg-type]

    def table(self) -> Iterator[str]:
        width = max((len(row.fault) for row in self.rows), default=0)
        yield f"{'fault':{width}}  messages  held     longest  suppressed  fenced"
        for row in self.sorted():
            yield (
                f"{row.fault:{width}}  {row.messages:8}  {row.invariants:8}{row.longest_wait_s:6.1f} s"
                f"  {row.suppressed:10}  {row.fenced:6}  {row.note}".rstrip()
            )

    def to_json(self, seed: int) -> bytes:
        rows = [asdict(row) for row in self.sorted()]
        return orjson.dumps({"seed": seed, "rows": rows}, option=orjson.OPT_INDENT_2)


def seed() -> int:
    """Of everything random in the run: `CHAOS_SEED`, which the first process of the run sets where it is not given."""
    return int(os.environ["CHAOS_SEED"])
