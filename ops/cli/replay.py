"""`replay`."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import orjson
import typer

from ops import wiring
from ops.cli.console import harmless, out, prepare, print_json, run
from ops.cli.progress import progress
from ops.cli.times import point_in_time
from ops.errors import OpsError, UsageError
from ops.replay.comparison import Difference
from ops.replay.crew import Place, crew
from ops.replay.outcome import Outcome
from ops.replay.process import Part
from ops.replay.rebuild import Rebuild, Snapshots
from ops.replay.selection import Selection
from ops.replay.snapshots import SnapshotWriting
from ops.settings import Settings
from schemas.topics import MAX_EVENT_BYTES
from store.errors import StoreError
from workers.incarnations import Incarnations

_KINDS = {
    "same": "are as the topics say",
    "created": "are missing in the store",
    "changed": "differ from the topics",
    "removed": "are in the store, and never were in the topics",
    "ahead": "were changed meanwhile; what is live stays",
    "expired": "have expired, and stay gone",
    "not_retained": "can't be rebuilt: their events are no longer retained; what is live stays",
}


def register(app: typer.Typer) -> None:
    app.command()(replay)


def replay(
    session: Annotated[list[str] | None, typer.Option(help="Only this session; repeat for more.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="Only sessions of this user; repeat for more.")] = None,
    partition: Annotated[
        list[int] | None, typer.Option(help="Only sessions with events in this reply partition; repeat for more.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only sessions changed then or later: 2026-01-31T08:00:00Z, or 2h, 1d ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only sessions last changed before then.")] = None,
    sample: Annotated[float, typer.Option(min=0.0001, max=1.0, help="Only this share of the sessions.")] = 1.0,
    execute: Annotated[bool, typer.Option(help="Do it; without this only say what would happen.")] = False,
    verify: Annotated[bool, typer.Option(help="Exit with 1 if the store differs from the topics.")] = False,
    snapshot: Annotated[
        bool, typer.Option(help="Publish a snapshot of every session, so that the next rebuild starts from there.")
    ] = False,
    from_start: Annotated[bool, typer.Option(help="Without snapshots, from the reply events alone.")] = False,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Read at most so many records a second, to leave the rest in peace.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many share the work; one per CPU if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Rebuilds sessions from the reply topic, beside the live ones, and says how those differ.

    With --execute they take the place of the live ones: each in one step, and never over a newer turn, so that workers
    may go on meanwhile. Nothing is generated, nothing is published. A replay that was killed goes on where it was.
    """
    if execute and verify:
        raise UsageError("--verify changes nothing; leave out --execute")
    if execute and sample < 1.0:
        raise UsageError("--sample is for looking; --execute needs all sessions, or a filter that names them")
    if snapshot and (execute or verify):
        raise UsageError("--snapshot writes snapshots only; --execute and --verify are runs of their own")
    now = datetime.now(UTC)
    selection = Selection(
        frozenset(session or ()),
        frozenset(user or ()),
        frozenset(partition or ()),
        point_in_time(since, now) if since else None,
        point_in_time(until, now) if until else None,
        sample,
    )
    if snapshot and not selection.is_everything:
        raise UsageError("--snapshot covers all sessions; leave out the filters")
    how = How(execute, snapshot, from_start, rate)
    settings = prepare()
    with _crew(settings, selection, how, processes) as members:
        outcome, written = run(rebuild(settings, selection, how, members))
    if as_json:
        print_json(_document(outcome) if written is None else _snapshot_document(outcome, written))
    elif written is None:
        _print(outcome, verify=verify)
    else:
        _print_reading(outcome)
        out.print(f"{written.written} snapshots written, {written.ended} of expired sessions removed", markup=False)
    if verify and outcome.differs:
        raise OpsError("the store differs from the topics")


@dataclass(frozen=True, slots=True)
class How:
    """What a replay does with what it rebuilt."""

    execute: bool
    snapshot: bool
    from_start: bool
    records_per_second: int | None = None

    @property
    def whole(self) -> bool:
        """Needs the events themselves, not only what tells them apart."""
        return self.execute or self.snapshot


def _crew(
    settings: Settings, selection: Selection, how: How, processes: int | None
) -> AbstractContextManager[Sequence[Place]]:
    """The processes that share the work; none where one is enough."""
    count = 1 if how.records_per_second else processes or min(os.cpu_count() or 1, settings.topic_partitions)
    return crew(count, partial(_part, settings, selection, how)) if count > 1 else nullcontext(())


def _part(settings: Settings, selection: Selection, how: How, may_go_on: Callable[[], bool]) -> Part:
    connection = wiring.kafka_connection(settings)
    return Part(
        connection,
        wiring.topic_names(settings).replies,
        wiring.working_copy(settings, selection, whole=how.whole),
        selection,
        may_go_on,
        partial(wiring.session_keys, settings, connection),
        ttl_seconds=settings.redis_session_ttl_seconds,
    )


async def rebuild(
    settings: Settings, selection: Selection, how: How, members: Sequence[Place] = ()
) -> tuple[Outcome, SnapshotWriting | None]:
    """Runs a replay; with snapshots, what was written of them.

    Raises:
        OpsError
    """
    topics = wiring.topic_names(settings)
    try:
        async with AsyncExitStack() as stack:
            store = wiring.shared_session_store(settings)
            stack.push_async_callback(store.close)
            copy = wiring.working_copy(settings, selection, whole=how.whole)
            stack.push_async_callback(copy.close)
            connection = wiring.kafka_connection(settings)
            seals = await stack.enter_async_context(wiring.session_keys(settings, connection))
            incarnations = Incarnations(store)
            await incarnations.learn([topics.replies])
            it = Rebuild(
                connection,
                topics.replies,
                copy,
                selection,
                ttl_seconds=settings.redis_session_ttl_seconds,
                records_per_second=how.records_per_second,
                crew=members,
                snapshots=None if how.from_start else Snapshots(topics.snapshots, incarnations.name(topics.replies)),
                seals=seals,
            )
            if not how.snapshot:
                return await it.run(progress, execute=how.execute), None
            kafka = wiring.publisher(settings, connection, max_record_bytes=2 * MAX_EVENT_BYTES)
            stack.push_async_callback(kafka.close)
            writing = SnapshotWriting(kafka, topics.snapshots, seals, store)
            return await it.snapshot(progress, writing), writing
    except StoreError as error:
        raise OpsError(str(error)) from error


def _snapshot_document(outcome: Outcome, written: SnapshotWriting) -> dict[str, Any]:
    return {
        "snapshots_written": written.written,
        "snapshots_removed": written.ended,
        "records": outcome.records,
        "seconds_reading": round(outcome.seconds_reading, 3),
    }


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "executed": outcome.executed,
        "differs": outcome.differs,
        "sessions": {kind: outcome.kinds[kind] for kind in _KINDS},
        "fields": dict(outcome.fields),
        "switched": outcome.switched,
        "removed": outcome.removed,
        "records": outcome.records,
        "records_read_before": outcome.resumed_at,
        "snapshots": outcome.snapshots,
        "records_unreadable": outcome.unreadable,
        "records_erased": outcome.erased,
        "seconds_reading": round(outcome.seconds_reading, 3),
        "first": [asdict(each) for each in outcome.first],
    }


def _print_reading(outcome: Outcome) -> None:
    if outcome.snapshots:
        out.print(f"{outcome.snapshots} snapshots to begin with", markup=False)
    rate = outcome.records / outcome.seconds_reading if outcome.seconds_reading else 0.0
    before = f", after {outcome.resumed_at} that an earlier run had read" if outcome.resumed_at else ""
    took = f"{outcome.seconds_reading:.1f} s ({rate:,.0f}/s)"
    out.print(f"{outcome.records} records read in {took}{before}", markup=False)
    if outcome.erased:
        out.print(f"{outcome.erased} records were erased, and left out", markup=False)
    if outcome.unreadable:
        out.print(f"{outcome.unreadable} records can't be read and were left out", markup=False)


def _print(outcome: Outcome, *, verify: bool) -> None:
    _print_reading(outcome)
    for kind, meaning in _KINDS.items():
        if outcome.kinds[kind] or kind == "same":
            out.print(f"{outcome.kinds[kind]:>10}  sessions {meaning}", markup=False)
    for name, count in outcome.fields.most_common():
        out.print(f"{count:>10}    in {name}", markup=False)
    for difference in outcome.first:
        out.print(f"   {harmless(_line(difference))}", markup=False)
    if outcome.more:
        out.print(f"   and {outcome.more} more", markup=False)
    if outcome.executed:
        out.print(f"{outcome.switched} sessions rebuilt, {outcome.removed} removed", markup=False)
    elif outcome.differs and not verify:
        out.print("nothing was changed; add --execute to do it", markup=False)


def _line(difference: Difference) -> str:
    changes = "; ".join(
        f"{name}: {_short(live)} -> {_short(rebuilt)}" for name, (live, rebuilt) in difference.changes.items()
    )
    return f"{difference.kind:12}  {difference.session_id}  {changes}".rstrip()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
