"""`dlq list|show|redrive`."""

import base64
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer

from ops import wiring
from ops.cli.console import err, harmless, out, prepare, print_json, run
from ops.cli.progress import progress
from ops.cli.times import point_in_time
from ops.dead_letter_topic import DeadLetterTopic, open_dead_letters
from ops.dead_letters import DeadLetter, Place, Selection
from ops.errors import OpsError, UsageError
from ops.redrive import Plan, Redrive, Report, plan_redrive
from ops.settings import Settings
from schemas.publishing import PublishError
from schemas.sealed import is_sealed
from schemas.topics import MAX_EVENT_BYTES

app = typer.Typer(help="Dead letters: records that could not be answered.", no_args_is_help=True)
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only these; may be given several times.")]
Session = Annotated[str | None, typer.Option(help="Only this session's.")]
Since = Annotated[str | None, typer.Option(help="Failed then or later: 2026-01-31T08:00:00Z, or how long ago: 2h, 1d.")]
Until = Annotated[str | None, typer.Option(help="Failed before: in the same forms.")]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON document.")]


@app.command("list")
def list_letters(
    reason: Reasons = None,
    session: Session = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, those that failed first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Dead letters, in the order in which they failed."""
    run(_list(prepare(), _selection(reason, session, since, until), limit, as_json))


def _selection(reasons: list[str] | None, session: str | None, since: str | None, until: str | None) -> Selection:
    now = datetime.now(UTC)
    begin = point_in_time(since, now) if since else None
    end = point_in_time(until, now) if until else None
    if begin and end and begin >= end:
        raise UsageError(f"--until {until} is not after --since {since}")
    return Selection(frozenset(reasons or ()), session, begin, end)


async def _list(settings: Settings, selection: Selection, limit: int, as_json: bool) -> None:
    # What a letter says of itself, without its value: a page of those would be large.
    found: list[tuple[datetime, Place, dict[str, Any]]] = []
    total = 0
    async with _opened(settings) as topic:
        with progress("Reading dead letters") as advance:
            async for letter in topic.read(selection.since, advance):
                if selection.takes(letter):
                    total += 1
                    found.append((letter.failed_at, letter.place, _summary(letter)))
                if len(found) >= 2 * limit:
                    found = sorted(found, key=lambda each: each[:2])[:limit]
        _tell_strangers(topic)
    summaries = [summary for _, _, summary in sorted(found, key=lambda each: each[:2])[:limit]]
    if total > limit:
        err.print(f"these are {limit} of {total}; see --limit, --since", markup=False)
    if as_json:
        print_json(summaries)
    elif summaries:
        columns = ("place", "failed_at", "reason", "session_id", "origin", "attempts", "error")
        _print_table([columns, *([str(each[name] or "-") for name in columns] for each in summaries)])


def _summary(letter: DeadLetter) -> dict[str, Any]:
    origin = letter.origin
    return {
        "place": str(letter.place),
        "failed_at": letter.failed_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "reason": letter.reason,
        "session_id": letter.session_id,
        "origin": f"{origin.topic}:{origin.partition}:{origin.offset}",
        "attempts": letter.attempts,
        "error": letter.error,
    }


def _print_table(rows: list[Any]) -> None:
    """Columns as wide as they must be: a line is cut nowhere, so that grep finds what it looks for."""
    cells = [[harmless(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        out.print(line.rstrip(), markup=False)


def _tell_strangers(topic: DeadLetterTopic) -> None:
    if topic.strangers:
        err.print(f"{topic.strangers} records in the topic are no dead letters", markup=False)


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="As `dlq list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Everything of one dead letter: the record as it came, and why it is here."""
    try:
        wanted = Place.parse(place)
    except ValueError as error:
        raise UsageError(str(error)) from error
    letter = run(_read(prepare(), wanted))
    if as_json:
        headers = [{"name": name, **_as_text("value", value)} for name, value in letter.headers]
        print_json(
            {**_summary(letter), **_as_text("key", letter.key), "headers": headers, **_as_text("value", letter.value)}
        )
        return
    fields = {**_summary(letter), "key": _readable(letter.key)}
    fields |= {f"header {name}": _readable(value) for name, value in letter.headers}
    width = max(map(len, fields))
    for name, value in fields.items():
        out.print(harmless(f"{name:{width}}  {'-' if value is None else value}"), markup=False)
    out.print(f"\n{harmless(_pretty(letter.value))}", markup=False)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[DeadLetterTopic]:
    connection = wiring.kafka_connection(settings)
    async with (
        wiring.session_keys(settings, connection) as seals,
        open_dead_letters(connection, seals, wiring.topic_names(settings).dlq) as topic,
    ):
        yield topic


async def _read(settings: Settings, place: Place) -> DeadLetter:
    async with _opened(settings) as topic:
        return await topic.at(place)


def _as_text(name: str, data: bytes | None) -> dict[str, str | None]:
    """For a script, which must get the same bytes from it."""
    try:
        return {name: None if data is None else data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data or b"").decode()}


def _readable(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


def _pretty(value: bytes | None) -> str:
    if is_sealed(value):
        return "(erased: its session was deleted)"
    try:
        return orjson.dumps(orjson.loads(value or b""), option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter: nested too deep to be written again
        return _readable(value) or "(no value)"


@app.command()
def redrive(
    reason: Reasons = None,
    session: Session = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many, those that failed first.")] = None,
    execute: Annotated[bool, typer.Option(help="Do it; without this only say what would happen.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sends dead letters back to the topics that they came from, to be answered after all.

    Each session's go in the order of its original records. What was answered meanwhile is dropped by the worker.
    """
    run(_redrive(prepare(), _selection(reason, session, since, until), limit, execute=execute, as_json=as_json))


async def _redrive(
    settings: Settings, selection: Selection, limit: int | None, *, execute: bool, as_json: bool
) -> None:
    names = wiring.topic_names(settings)
    async with _opened(settings) as topic:
        with progress("Reading dead letters") as advance:
            letters = topic.read(selection.since, advance)
            plan = await plan_redrive(letters, selection, {names.inbound, *settings.extra_inbound_topics}, limit)
        _tell_strangers(topic)
        if not as_json:
            _print_plan(plan)
        report = Report()
        try:
            if execute and plan.letters:
                await _execute(settings, plan, selection, report)
        finally:
            # Also of one that broke off it must be known how far it came.
            _print_report(plan, report, execute=execute, as_json=as_json)
    if report.refused:
        refused = "; ".join(f"{place}: {why}" for place, why in list(report.refused.items())[:10])
        raise OpsError(f"{len(report.refused)} records were not sent back: {refused}")


async def _execute(settings: Settings, plan: Plan, selection: Selection, report: Report) -> None:
    # As large as a dead letter may be; what the original topic takes, its broker says.
    connection, topics = wiring.kafka_connection(settings), wiring.topic_names(settings)
    kafka = wiring.publisher(settings, connection, max_record_bytes=2 * MAX_EVENT_BYTES)
    try:
        names = {letter.origin.topic for letter in plan.letters}
        partitions = {name: await kafka.partitions_of(name) for name in names}
        async with (
            wiring.session_keys(settings, connection) as seals,
            open_dead_letters(connection, None, topics.dlq) as topic,
        ):
            redrive = Redrive(wiring.sealing(settings, kafka, seals), seals, topics.inbound, partitions)
            with progress("Sending back") as advance:
                letters = topic.read(selection.since, lambda _done, _total: None)
                async for through in redrive.run(letters, plan, report):
                    advance(through, len(plan.letters))
    except PublishError as error:
        raise OpsError(str(error)) from error
    finally:
        await kafka.close()


def _print_plan(plan: Plan) -> None:
    rows = [(reason, str(count), f"to {topic}") for (reason, topic), count in sorted(plan.groups.items())]
    rows += [(reason, str(count), f"stay: {why}") for (reason, why), count in sorted(plan.skipped.items())]
    if rows:
        _print_table([("reason", "records", ""), *rows])


def _print_report(plan: Plan, report: Report, *, execute: bool, as_json: bool) -> None:
    count, stay = len(plan.letters), plan.skipped.total()
    if as_json:
        print_json(
            {
                "executed": execute,
                "records": count,
                "redriven": report.redriven,
                "groups": _groups(plan.groups, "topic"),
                "skipped": _groups(plan.skipped, "why"),
                "refused": [{"place": str(place), "why": why} for place, why in report.refused.items()],
            }
        )
    elif execute:
        out.print(f"sent {report.redriven} of {count} records back; {stay} stay", markup=False)
    elif count:
        out.print(f"would send {count} records back; add --execute to do it; {stay} stay", markup=False)
    else:
        out.print(f"nothing to send back; {stay} stay", markup=False)


def _groups(counts: Counter[tuple[str, str]], second: str) -> list[dict[str, Any]]:
    return [{"reason": reason, second: other, "records": n} for (reason, other), n in sorted(counts.items())]
