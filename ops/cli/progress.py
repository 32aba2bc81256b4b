"""How far long work is: a bar with the time left on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ops.cli.console import err

LINE_EVERY_SECONDS = 5.0

Advance = Callable[[int, int | None], None]
"""Takes how much is done, and of how much, where that is known."""


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Shows on standard error how far `what` is, while the block runs."""
    if not err.is_terminal:
        yield _lines(what)
        return
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Advance:
    began = told_at = time.monotonic()

    def advance(done: int, total: int | None) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now < told_at + LINE_EVERY_SECONDS:
            return
        told_at = now
        left = f" of {total}, {(now - began) * (total - done) / done:.0f} s left" if total and 0 < done < total else ""
        err.print(f"{what}: {done}{left}", markup=False)

    return advance
