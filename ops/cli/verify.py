"""`verify`."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ops import wiring
from ops.cli.console import harmless, out, prepare, print_json, run
from ops.cli.progress import progress
from ops.cli.times import point_in_time
from ops.errors import OpsError, UsageError
from ops.settings import Settings
from ops.verification.checker import INVARIANTS, Breach, Findings, Invariant
from ops.verification.run import Span, Verification

_PROMISES: dict[Invariant, str] = {
    "L": "every accepted message has one outcome",
    "D": "no message is answered twice",
    "O": "each session's turns are in order",
    "U": "no update of a session is lost",
    "R": "the topics bring back what is live",
    "C": "nothing unfinished is committed",
}


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    since: Annotated[
        str | None, typer.Option(help="Messages of then or later: 2026-01-31T08:00:00Z, or how long ago: 2h, 1d.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Messages before then: in the same forms.")] = None,
    wait: Annotated[
        float,
        typer.Option(min=0, help="Wait so many seconds for what is under way; what has no outcome then is lost."),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Checks that nothing was lost, doubled or disordered: reads the topics and the sessions, changes nothing.

    Exit code 1 when an invariant is broken; the first ids that show it are named.
    """
    now = datetime.now(UTC)
    span = Span(point_in_time(since, now) if since else None, point_in_time(until, now) if until else None)
    if span.since and span.until and span.since >= span.until:
        raise UsageError(f"--until {until} is not after --since {since}")
    findings = run(_verify(prepare(), span, wait))
    if as_json:
        print_json(_document(findings))
    else:
        _print(findings)
    if not findings.ok:
        raise OpsError("invariants are broken: " + ", ".join(sorted(findings.counts)))


async def _verify(settings: Settings, span: Span, wait: float) -> Findings:
    store = wiring.shared_session_store(settings)
    try:
        connection = wiring.kafka_connection(settings)
        async with wiring.session_keys(settings, connection) as seals:
            verification = Verification(
                connection,
                wiring.topic_names(settings),
                settings.extra_inbound_topics,
                settings.consumer_group,
                store,
                seals=seals,
            )
            with progress("Reading records") as advance:
                return await verification.run(span, wait, advance)
    finally:
        await store.close()


def _document(findings: Findings) -> dict[str, Any]:
    return {
        "ok": findings.ok,
        "records": dict(findings.records),
        "not_checked": dict(findings.not_checked),
        "breaches": {
            name: {"count": findings.counts[name], "first": [asdict(breach) for breach in findings.breaches[name]]}
            for name in INVARIANTS
        },
    }


def _print(findings: Findings) -> None:
    read = findings.records
    out.print(
        f"{read['inbound']} inbound records: {read['answered']} answered, {read['dead_letters']} dead letters, "
        f"{read['duplicates']} duplicates, {read['open']} open"
        + (f"; {read['erased']} inbound and reply records erased" if read["erased"] else ""),
        markup=False,
    )
    out.print(
        f"{read['replies']} reply records ({read['published_again']} published again), "
        f"{read['sessions']} sessions compared",
        markup=False,
    )
    for why, count in sorted(findings.not_checked.items()):
        out.print(f"{count} sessions not compared: {why}", markup=False)
    for name in INVARIANTS:
        count = findings.counts[name]
        out.print(f"{name}  {'broken' if count else 'kept':6}  {_PROMISES[name]}", markup=False)
        for breach in findings.breaches[name]:
            out.print(f"   {harmless(_line(breach))}", markup=False)
        if count > (shown := len(findings.breaches[name])):
            out.print(f"   and {count - shown} more", markup=False)


def _line(breach: Breach) -> str:
    about = [
        f"session {breach.session_id}" if breach.session_id else "",
        f"id {breach.inbound_id}" if breach.inbound_id else "",
        f"record {breach.record}" if breach.record else "",
    ]
    return f"{', '.join(filter(None, about))}: {breach.what}".lstrip(": ")
