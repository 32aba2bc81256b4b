"""`topics create|show|check`."""

from typing import Annotated

import typer
from rich.table import Table

from ops import wiring
from ops.cli.console import out, prepare, print_json, run
from ops.errors import OpsError
from ops.kafka.topics import TopicAdmin, TopicState, problems
from ops.settings import Settings
from schemas.topics import TopicSpec, topic_specs

app = typer.Typer(help="Kafka topics: they are created explicitly, never by accident.", no_args_is_help=True)


@app.command()
def create() -> None:
    """Creates the topics that are missing; leaves the others as they are."""
    settings = prepare()
    for name in run(_create(settings)):
        out.print(f"created {name}")


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False) -> None:
    """The topics as the broker has them."""
    settings = prepare()
    states = run(_describe(settings))
    if as_json:
        print_json(
            [
                {"name": s.name, "partitions": s.partitions, "replicas": s.replication_factor, "config": s.config}
                for s in states
            ]
        )
        return
    table = Table("topic", "partitions", "replicas", "cleanup", "retention", box=None, pad_edge=False)
    for state in states:
        retention = state.config.get("retention.ms", "")
        present = str(state.partitions) if state.partitions else "missing"
        cleanup = state.config.get("cleanup.policy", "?")
        table.add_row(state.name, present, str(state.replication_factor), cleanup, _duration(retention))
    out.print(table)


def _duration(milliseconds: str) -> str:
    """The retention as a person says it."""
    if not milliseconds:
        return "?"
    if milliseconds == "-1":
        return "for ever"
    minutes = int(milliseconds) / 60_000
    return f"{minutes / 1_440:g} days" if minutes >= 1_440 else f"{minutes:g} minutes"


@app.command()
def check() -> None:
    """Compares the topics with what the pipeline needs; exit 1 where something differs."""
    settings = prepare()
    found = [
        problem
        for spec, state in zip(_specs(settings), run(_describe(settings)), strict=True)
        for problem in problems(spec, state)
    ]
    if found:
        raise OpsError("\n".join(found))
    out.print("All topics are as they should be.")


def _specs(settings: Settings) -> list[TopicSpec]:
    return topic_specs(wiring.topic_names(settings), settings.topic_partitions)


async def _create(settings: Settings) -> list[str]:
    async with TopicAdmin(wiring.kafka_connection(settings)) as admin:
        return await admin.create(_specs(settings), settings.topic_replication_factor)


async def _describe(settings: Settings) -> list[TopicState]:
    async with TopicAdmin(wiring.kafka_connection(settings)) as admin:
        return await admin.describe(_specs(settings))
