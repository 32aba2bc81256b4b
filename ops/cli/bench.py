"""`bench`: what things cost, as ratios to a hand-written floor in one run."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ops.bench.report import Report, lanes_table, replay_table, store_table, turns_table
from ops.cli.console import err, out, print_json
from ops.errors import OpsError

Run = Callable[[Callable[[int, int, str], None]], Report]
"""Measures; tells steps done, steps in all and what comes now to what it is handed."""

app = typer.Typer(help="Benches: each starts its own Kafka and Redis.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Benches: each starts its own Kafka and Redis."""


@app.command()
def turns(
    rounds: Annotated[int, typer.Option(min=1, help="Floor and product take turns this often.")] = 12,
    seconds: Annotated[float, typer.Option(min=1, help="Length of one measurement.")] = 3.0,
    retrieval: Annotated[bool, typer.Option(help="Measure the product with retrieval, too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """What a turn costs: socket to Kafka to worker to Redis to Kafka to socket."""
    from ops.bench.turns import run

    report = _measured(lambda progress: run(rounds, seconds, retrieval, progress))
    if as_json:
        print_json(asdict(report))
    else:
        out.print(turns_table(report))


@app.command()
def store(
    rounds: Annotated[int, typer.Option(min=1, help="What is compared takes turns this often.")] = 12,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measurement.")] = 3.0,
    sessions: Annotated[int, typer.Option(min=1, help="How many to fill Redis with, to see what one takes.")] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """What the session store costs: reads, commits, long sessions, locks, memory."""
    from ops.bench.store import RATIOS, run

    report = _measured(lambda progress: run(rounds, seconds, sessions, progress))
    if as_json:
        print_json(asdict(report))
    else:
        out.print(store_table(report, RATIOS))


@app.command()
def lanes(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each length of work.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of one run, if nothing is added.")] = 5.0,
    failover: Annotated[int, typer.Option(min=0, help="Deaths of a worker, and of a broker; 0: none.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """What key order costs: one partition, 100 sessions, 0 to 50 ms of work per record. And how long failover takes."""
    from ops.bench.lanes import run

    report = _measured(lambda progress: run(rounds, seconds, failover, progress))
    if as_json:
        print_json(asdict(report))
    else:
        out.print(lanes_table(report))


@app.command()
def replay(
    records: Annotated[int, typer.Option(min=1_000, help="Reply records; a session has 20.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Floor and product take turns this often.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """What a rebuild costs: from the reply topic into an empty Redis, and from snapshots."""
    from ops.bench.replay import run

    report = _measured(lambda progress: run(records, rounds, progress))
    if as_json:
        print_json(asdict(report))
    else:
        out.print(replay_table(report))


def _measured(run: Run) -> Report:
    """The report of `run`, with its progress as a bar on a terminal."""
    from ops.bench.measure import BenchError
    from ops.local.process import ServerError

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
            task = bar.add_task("starting", total=None)
            return run(
                lambda done, total, label: bar.update(task, completed=done, total=total, description=label),
            )
    except (BenchError, ServerError) as error:
        raise OpsError(str(error)) from error
