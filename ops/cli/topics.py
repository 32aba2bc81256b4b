"""`topics create|show|check|grow|adopt`."""

from typing import Annotated, Literal

import typer
from rich.table import Table

from ops import wiring
from ops.cli.console import out, prepare, print_json, run
from ops.errors import OpsError, UsageError
from ops.kafka.topics import TopicAdmin, TopicState, problems
from ops.settings import Settings
from ops.topic_adoption import StartAt, TopicAdoption
from ops.topic_growth import divided_by_session, plan_growth
from ops.topic_growth import grow as run_growth
from store.errors import StoreError

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
        for spec, state in zip(wiring.topic_specs_of(settings), run(_describe(settings)), strict=True)
        for problem in problems(spec, state)
    ]
    if found:
        raise OpsError("\n".join(found))
    out.print("All topics are as they should be.")


@app.command()
def grow(
    partitions: Annotated[int, typer.Argument(min=1, max=10_000, help="How many each topic shall have.")],
    execute: Annotated[bool, typer.Option(help="Do it; without this only say what would happen.")] = False,
) -> None:
    """Gives the topics more partitions, so that more workers can share the load. Everything may run meanwhile."""
    settings = prepare()
    run(_grow(settings, partitions, execute))


async def _grow(settings: Settings, partitions: int, execute: bool) -> None:
    names = wiring.topic_names(settings)
    async with TopicAdmin(wiring.kafka_connection(settings)) as admin:
        states = await admin.describe(divided_by_session(names, wiring.topic_specs_of(settings)))
        plan = plan_growth(names, states, partitions)
        for state in plan.steps:
            out.print(f"{state.name}: {state.partitions} -> {partitions} partitions", markup=False)
        if plan.last:
            out.print(
                f"{plan.moving:.0%} of the sessions get another home. Each moves there once what it has said before is "
                "answered; until then its turns run under the session lock.\n"
                "Systems that publish themselves move at once, when their producers notice: what they publish for one "
                "session around that moment may be answered out of order.",
                markup=False,
            )
        if not execute:
            out.print("add --execute to do it", markup=False)
            return
        await run_growth(
            admin, plan, 2 * settings.kafka_metadata_max_age_seconds, lambda line: out.print(line, markup=False)
        )
    out.print(f"Now set TOPIC_PARTITIONS={partitions} everywhere, and see: supportstream topics check", markup=False)


@app.command()
def adopt(
    topic: Annotated[str, typer.Argument(help="The topic that workers refuse.")],
    start_at: Annotated[
        Literal["beginning", "end"],
        typer.Option(help="Which records are new: all that the topic has, or only those to come."),
    ] = "beginning",
    execute: Annotated[bool, typer.Option(help="Do it; without this only say what would happen.")] = False,
) -> None:
    """Goes on with a topic that was created again, or lost its end: its offsets count anew. Stop the workers first.

    A topic that was created again has only new records: start at its beginning. One that lost its end still has
    records that were answered: start at its end, and what came since it was cut is not answered.
    """
    run(_adopt(prepare(), topic, start_at, execute))


async def _adopt(settings: Settings, topic: str, start_at: StartAt, execute: bool) -> None:
    names = wiring.topic_names(settings)
    known = (names.inbound, names.replies, *settings.extra_inbound_topics)
    if topic not in known:
        raise UsageError(f"{topic} is not read by workers; those are {', '.join(known)}")
    connection = wiring.kafka_connection(settings)
    async with TopicAdmin(connection) as admin:
        partitions = await admin.partition_count(topic)
    store = wiring.shared_session_store(settings)
    try:
        adoption = TopicAdoption(connection, store, settings.consumer_group)
        plan = await adoption.plan(topic, partitions)
        for each in plan.shorter:
            out.print(f"{topic}:{each.partition} ends at {each.end}; {each.done_below} were done", markup=False)
        if not execute:
            out.print(
                f"would go on at the {start_at} of {topic}, as its life number {plan.incarnation}; sessions stay; "
                "add --execute to do it",
                markup=False,
            )
            return
        await adoption.execute(plan, None if topic == names.replies else start_at)
        out.print(f"{topic} goes on at its {start_at}, as {topic}@{plan.incarnation}; start the workers", markup=False)
    except StoreError as error:
        raise OpsError(str(error)) from error
    finally:
        await store.close()


async def _create(settings: Settings) -> list[str]:
    async with TopicAdmin(wiring.kafka_connection(settings)) as admin:
        return await admin.create(wiring.topic_specs_of(settings), settings.topic_replication_factor)


async def _describe(settings: Settings) -> list[TopicState]:
    async with TopicAdmin(wiring.kafka_connection(settings)) as admin:
        return await admin.describe(wiring.topic_specs_of(settings))
