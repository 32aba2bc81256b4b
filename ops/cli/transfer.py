"""`export` and `import`."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ops import wiring
from ops.cli.console import err, out, prepare, run
from ops.cli.progress import progress
from ops.cli.times import point_in_time
from ops.errors import OpsError
from ops.kafka.reading import span_reader
from ops.settings import Settings
from ops.transfer import Span, export_lines, import_events, read_lines
from schemas.publishing import PublishError
from schemas.topics import MAX_EVENT_BYTES


def register(app: typer.Typer) -> None:
    app.command("export")(export)
    app.command("import")(import_)


def export(
    session: Annotated[list[str] | None, typer.Option(help="Only this session; repeat for more.")] = None,
    since: Annotated[str | None, typer.Option(help="Events of then or later: 2026-01-31T08:00:00Z, or 2h, 1d.")] = None,
    until: Annotated[str | None, typer.Option(help="Events before then, in the same forms.")] = None,
) -> None:
    """Reply events as JSON Lines of CloudEvents, on standard output."""
    now = datetime.now(UTC)
    span = Span(
        frozenset(session or ()),
        point_in_time(since, now) if since else None,
        point_in_time(until, now) if until else None,
    )
    count = run(_export(prepare(), span))
    err.print(f"{count} events", markup=False)


async def _export(settings: Settings, span: Span) -> int:
    count = 0
    connection = wiring.kafka_connection(settings)
    async with wiring.session_keys(settings, connection) as seals, span_reader(connection, seals=seals) as consumer:
        with progress("Reading records") as advance:
            async for line in export_lines(consumer, wiring.topic_names(settings).replies, span, advance):
                sys.stdout.buffer.write(line)
                count += 1
        sys.stdout.buffer.flush()
    return count


def import_(
    file: Annotated[Path, typer.Argument(help="What `export` wrote.", exists=True, dir_okay=False)],
    execute: Annotated[bool, typer.Option(help="Do it; without this only check the file.")] = False,
) -> None:
    """Publishes exported events on the reply topic. Then `replay --execute` brings their sessions into the store."""
    settings = prepare()
    with file.open("rb") as lines:
        sessions = set()
        count = 0
        for event, _ in read_lines(lines):
            sessions.add(event.session_id)
            count += 1
    if not execute:
        out.print(f"would publish {count} events of {len(sessions)} sessions; add --execute to do it", markup=False)
        return
    with file.open("rb") as lines:
        done = run(_import(settings, lines))
    out.print(
        f"published {done} events of {len(sessions)} sessions; next: supportstream replay --execute", markup=False
    )


async def _import(settings: Settings, lines: Iterable[bytes]) -> int:
    connection = wiring.kafka_connection(settings)
    kafka = wiring.publisher(settings, connection, max_record_bytes=MAX_EVENT_BYTES)
    topic = wiring.topic_names(settings).replies
    try:
        await kafka.start()
        partitions = await kafka.partitions_of(topic)
        async with wiring.session_keys(settings, connection) as seals:
            publisher = wiring.sealing(settings, kafka, seals)
            with progress("Publishing events") as advance:
                return await import_events(read_lines(lines), publisher, topic, partitions, advance)
    except PublishError as error:
        raise OpsError(str(error)) from error
    finally:
        await kafka.close()
