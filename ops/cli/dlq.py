"""`dlq list|show|redrive`."""

import base64
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
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
from ops.kafka.sole_member import sole_member
from ops.letter_evidence import LetterEvidence
from ops.letter_fates import Asked, Fate, Fates, Successors, asked_of
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
    """Dead letters, in the order in which they failed, and what became of each."""
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
    found: list[tuple[datetime, Place, dict[str, Any], Asked]] = []
    total, successors = 0, Successors()
    async with _opened(settings) as (topic, evidence):
        with progress("Reading dead letters") as advance:
            async for letter in topic.read(selection.since, advance):
                successors.add(letter)
                if selection.takes(letter):
                    total += 1
                    found.append((letter.failed_at, letter.place, _summary(letter), asked_of(letter)))
                if len(found) >= 2 * limit:
                    found = sorted(found, key=lambda each: each[:2])[:limit]
        _tell_strangers(topic)
        found = sorted(found, key=lambda each: each[:2])[:limit]
        fates = Fates((asked for *_, asked in found), successors)
        with progress("Looking what became of them") as advance:
            await evidence.gather(fates, advance)
    summaries = [{**summary, **_fate(fates.of(place))} for _, place, summary, _ in found]
    if total > limit:
        err.print(f"these are {limit} of {total}; see --limit, --since", markup=False)
    if as_json:
        print_json(summaries)
    elif summaries:
        columns = ("place", "failed_at", "reason", "state", "session_id", "origin", "attempts", "error")
        rows = [[*_cells(each, columns[:3]), _shown(each), *_cells(each, columns[4:])] for each in summaries]
        _print_table([columns, *rows])


def _cells(summary: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [str(summary[name] or "-") for name in names]


def _fate(fate: Fate) -> dict[str, Any]:
    return {"state": fate.state, "newer": None if fate.newer is None else str(fate.newer)}


def _shown(summary: dict[str, Any]) -> str:
    newer = summary["newer"]
    return str(summary["state"]) if newer is None else f"{summary['state']}: {newer}"


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
        "redrive_of": None if letter.redrive_of is None else str(letter.redrive_of),
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
    lost = _lost(letter)
    if as_json:
        headers = [{"name": name, **_as_text("value", value)} for name, value in letter.headers]
        value = _as_text("value", letter.value) if letter.lost_value is None else {"value": None, **lost}
        print_json({**_summary(letter), **_as_text("key", letter.key), "headers": headers, **value})
        return
    fields = {**_summary(letter), "key": _readable(letter.key), **lost}
    fields |= {f"header {name}": _readable(value) for name, value in letter.headers}
    width = max(map(len, fields))
    for name, value in fields.items():
        out.print(harmless(f"{name:{width}}  {'-' if value is None else value}"), markup=False)
    text = _pretty(letter.value) if letter.lost_value is None else "(the value was too large for the dead letter topic)"
    out.print(f"\n{harmless(text)}", markup=False)


def _lost(letter: DeadLetter) -> dict[str, Any]:
    """What is left of a value that was not kept."""
    lost = letter.lost_value
    if lost is None:
        return {}
    return {"size": lost.size, "digest": lost.digest, "first_bytes": _readable(lost.first_bytes)}


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[DeadLetterTopic, LetterEvidence]]:
    connection, names = wiring.kafka_connection(settings), wiring.topic_names(settings)
    async with (
        wiring.session_keys(settings, connection) as seals,
        open_dead_letters(connection, seals, names.dlq) as topic,
    ):
        inbound = (names.inbound, *settings.extra_inbound_topics)
        yield topic, LetterEvidence(connection, seals, inbound, names.replies)


async def _read(settings: Settings, place: Place) -> DeadLetter:
    async with _opened(settings) as (topic, _):
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

    Each session's go in the order of its original records. What was sent back or answered before stays.
    """
    run(_redrive(prepare(), _selection(reason, session, since, until), limit, execute=execute, as_json=as_json))


async def _redrive(
    settings: Settings, selection: Selection, limit: int | None, *, execute: bool, as_json: bool
) -> None:
    connection, names = wiring.kafka_connection(settings), wiring.topic_names(settings)
    alone = sole_member(connection, f"{settings.consumer_group}-redrive", names.dlq, "redrive")
    # Two that look at the same time would both find that nothing was sent.
    async with alone if execute else nullcontext(), _opened(settings) as (topic, evidence):
        with progress("Reading dead letters") as advance:
            letters = topic.read(selection.since, advance)
            read = {names.inbound, *settings.extra_inbound_topics}
            plan = await plan_redrive(
                letters, selection, read, limit, lambda fates: evidence.gather(fates, lambda _done, _total: None)
            )
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
