"""`keys generate|rotate`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from ops import wiring
from ops.cli.console import out, prepare, print_json, run
from ops.cli.progress import progress
from ops.errors import OpsError
from ops.settings import Settings
from schemas.publishing import PublishError
from store.encryption import new_key
from store.errors import StoreError
from store.redis.rotation import PLAIN, KeyRotation, KeySurvey, RotationReport
from store.rewrapping import WrapReport, WrapSurvey

_NOT_LOOKED_AT = (
    "KAFKA_BOOTSTRAP_SERVERS is not set, or there is no keys topic. Where topics were ever encrypted, keep the old key"
)

app = typer.Typer(help="The keys that sessions are encrypted with.", no_args_is_help=True)


@app.command()
def generate() -> None:
    """Prints a new key, and nothing else. It goes first into SESSION_ENCRYPTION_KEY, and belongs in no log."""
    print(new_key())


@app.command()
def rotate(
    execute: Annotated[bool, typer.Option(help="Do it; without this only say what would happen.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Encrypts all sessions anew with the first key in SESSION_ENCRYPTION_KEY, while the workers go on, and wraps the
    keys of what the topics have of sessions; the topics themselves stay as they are.

    May be stopped at any moment and run again. Exit 1 where no key opens something.
    """
    run(_rotate(prepare(), execute=execute, as_json=as_json))


async def _rotate(settings: Settings, *, execute: bool, as_json: bool) -> None:
    rotation = wiring.key_rotation(settings)
    try:
        async with wiring.key_rewrapping(settings) as rewrapping:
            with progress("Looking at sessions") as advance:
                survey = await rotation.survey(advance)
            wraps = None
            if rewrapping is not None:
                with progress("Looking at session keys") as advance:
                    wraps = await rewrapping.survey(advance)
            if not execute:
                _print_survey(rotation, survey, wraps, as_json)
                return
            with progress("Encrypting sessions anew") as advance:
                report = await rotation.run(advance, survey.sessions)
            wrapped = None
            if rewrapping is not None:
                with progress("Wrapping session keys anew") as advance:
                    wrapped = await rewrapping.run(advance)
    except (StoreError, PublishError) as error:
        raise OpsError(str(error)) from error
    finally:
        await rotation.close()
    _print_report(rotation, report, wrapped, as_json)


def _print_survey(rotation: KeyRotation, survey: KeySurvey, wraps: WrapSurvey | None, as_json: bool) -> None:
    key_id = rotation.key_ids[0]
    if as_json:
        by_key = {key or "plain": sessions for key, sessions in survey.by_key.items()}
        session_keys = asdict(wraps) if wraps else None
        print_json(
            {"executed": False, "key_id": key_id, **asdict(survey), "by_key": by_key, "session_keys": session_keys}
        )
        return
    wrapped_by = wraps.by_key if wraps else {}
    table = Table("key", "sessions", "session keys", "", box=None, pad_edge=False)
    for key in dict.fromkeys([*rotation.key_ids, *sorted({*survey.by_key, *wrapped_by})]):
        wrapped = str(wrapped_by.get(key, 0)) if wraps else "-"
        table.add_row(key or "none", str(survey.by_key.get(key, 0)), wrapped, _role(rotation, key))
    out.print(table)
    _tell_topics(wraps)
    locked = survey.locked + (wraps.locked if wraps else 0)
    outdated = survey.outdated + (wraps.outdated if wraps else 0)
    if survey.locked:
        out.print(
            f"{survey.locked} of {survey.sessions} sessions would be left as they are: SESSION_ENCRYPTION_KEY lacks "
            "their key",
            markup=False,
        )
    if wraps and wraps.locked:
        out.print(
            f"{wraps.locked} of {wraps.keys} session keys would be left as they are: SESSION_ENCRYPTION_KEY lacks "
            "the key around them",
            markup=False,
        )
    if survey.outdated:
        out.print(
            f"would encrypt {survey.outdated} of {survey.sessions} sessions anew with key {key_id}; "
            "add --execute to do it",
            markup=False,
        )
    if wraps and wraps.outdated:
        out.print(
            f"would wrap {wraps.outdated} of {wraps.keys} session keys anew with key {key_id}; add --execute to do it",
            markup=False,
        )
    if not locked and not outdated:
        out.print(f"nothing to do: key {key_id} alone opens all {survey.sessions} sessions", markup=False)


def _tell_topics(known: object | None) -> None:
    if known is None:
        out.print(f"session keys were not looked at: {_NOT_LOOKED_AT}", markup=False)


def _role(rotation: KeyRotation, key: str) -> str:
    if key == PLAIN:
        return "plain text"
    if key not in rotation.key_ids:
        return "not in SESSION_ENCRYPTION_KEY"
    return "encrypts" if key == rotation.key_ids[0] else "only decrypts"


def _print_report(rotation: KeyRotation, report: RotationReport, wrapped: WrapReport | None, as_json: bool) -> None:
    """Raises OpsError where something could not be read."""
    key_id = rotation.key_ids[0]
    if as_json:
        session_keys = asdict(wrapped) if wrapped else None
        print_json({"executed": True, "key_id": key_id, **asdict(report), "session_keys": session_keys})
    else:
        out.print(
            f"encrypted {report.rotated} sessions anew with key {key_id}; {report.already} were so already, "
            f"{report.expired} expired meanwhile",
            markup=False,
        )
        if wrapped is not None:
            out.print(
                f"wrapped {wrapped.rewrapped} session keys anew with key {key_id}; {wrapped.already} were so already",
                markup=False,
            )
        _tell_topics(wrapped)
    problems = []
    if report.unreadable:
        problems.append(f"{report.unreadable} of the sessions ({_named(report.unreadable, report.unreadable_ids)})")
    if wrapped and wrapped.unreadable:
        named = _named(wrapped.unreadable, wrapped.unreadable_sessions)
        problems.append(f"{wrapped.unreadable} session keys (of {named})")
    if problems:
        raise OpsError(f"{' and '.join(problems)} are left as they are, no key in SESSION_ENCRYPTION_KEY opens them")


def _named(count: int, first: Sequence[str]) -> str:
    more = count - len(first)
    return f"{', '.join(first)}{f' and {more} more' if more else ''}"
