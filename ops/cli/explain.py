"""`explain`."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ops import wiring
from ops.cli.console import harmless, out, prepare, print_json, run
from ops.cli.page_file import HTML_OPTION, write_page
from ops.cli.progress import progress
from ops.cli.times import point_in_time
from ops.errors import OpsError
from ops.explanation.page import page
from ops.explanation.search import Search
from ops.explanation.timeline import Step, Timeline
from ops.kafka.reading import span_reader
from ops.settings import Settings


def register(app: typer.Typer) -> None:
    app.command()(explain)


def explain(
    wanted: Annotated[str, typer.Argument(metavar="MESSAGE_ID|SESSION_ID", help="A message, or a session.")],
    session: Annotated[
        str | None, typer.Option(help="The message's session: only its home partition is searched.")
    ] = None,
    since: Annotated[str, typer.Option(help="How far back: 2026-01-31T08:00:00Z, or how long ago: 2h, 1d.")] = "7d",
    turns: Annotated[int, typer.Option(min=1, help="Of a session, so many of its newest messages.")] = 10,
    html: Annotated[Path | None, HTML_OPTION] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """How an answer came about: accepted, waited, retrieved, generated, published; failures and repetitions too."""
    after = point_in_time(since, datetime.now(UTC))
    timelines = run(_search(prepare(), wanted, session, after, turns))
    if not timelines:
        raise OpsError(
            f"Nothing since {after:%Y-%m-%d %H:%M} UTC is about {wanted}; look further back with --since 30d"
        )
    if html is not None:
        write_page(html, page(wanted, timelines))
    if as_json:
        print_json([asdict(each) for each in timelines])
    elif html is None:
        for each in timelines:
            _print(each)


async def _search(settings: Settings, wanted: str, session: str | None, since: datetime, turns: int) -> list[Timeline]:
    topics = wiring.topic_names(settings)
    connection = wiring.kafka_connection(settings)
    async with wiring.session_keys(settings, connection) as seals, span_reader(connection, seals=seals) as consumer:
        search = Search(
            consumer,
            topics,
            (topics.inbound, *settings.extra_inbound_topics),
            wanted=wanted,
            session_id=session,
            since=since,
            turns=turns,
        )
        with progress("Searching records") as advance:
            found = await search.run(advance)
        if not found and search.erased:
            raise OpsError(f"{search.erased} records are about {wanted}, and were erased: the session was deleted")
        return found


def _print(each: Timeline) -> None:
    total = f" in {each.total_ms:,.0f} ms" if each.total_ms is not None else ""
    out.print(harmless(f"{each.message_id}  {each.outcome}{total}  (session {each.session_id})"), markup=False)
    for name, text in (("asked", each.question), ("told", each.reply)):
        if text is not None:
            out.print(harmless(f"  {name}: {text}"), markup=False)
    for step in each.steps:
        out.print(harmless(f"  {_when(step):12} {_took(step):>10}  {step.name:18}  {step.what}".rstrip()), markup=False)
    for number, citation in enumerate(each.citations, 1):
        passage = citation.passage if len(citation.passage) <= 90 else f"{citation.passage[:87]}..."
        out.print(harmless(f"  [{number}] {citation.score:.3f}  {citation.title}: {passage}"), markup=False)
    out.print("", markup=False)


def _when(step: Step) -> str:
    return step.at.strftime("%H:%M:%S.%f")[:-3] if step.at else ""


def _took(step: Step) -> str:
    return f"{step.took_ms:,.1f} ms" if step.took_ms is not None else ""
