"""`keys generate|rotate`."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from ops import wiring
from ops.cli.console import out, prepare, print_json, run
from ops.cli.progress import progress
from ops.errors import OpsError
from ops.settings import Settings
from store.encryption import new_key
from store.errors import StoreError
from store.redis.rotation import PLAIN, KeyRotation, KeySurvey, RotationReport

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
    """Encrypts all sessions anew with the first key in SESSION_ENCRYPTION_KEY, while the workers go on.

    May be stopped at any moment and run again. Exit 1 where no key opens a session.
    """
    run(_rotate(prepare(), execute=execute, as_json=as_json))


async def _rotate(settings: Settings, *, execute: bool, as_json: bool) -> None:
    rotation = wiring.key_rotation(settings)
    try:
        with progress("Looking at sessions") as advance:
            survey = await rotation.survey(advance)
        if not execute:
            _print_survey(rotation, survey, as_json)
            return
        with progress("Encrypting sessions anew") as advance:
            report = await rotation.run(advance, survey.sessions)
    except StoreError as error:
        raise OpsError(str(error)) from error
    finally:
        await rotation.close()
    _print_report(rotation, report, as_json)


def _print_survey(rotation: KeyRotation, survey: KeySurvey, as_json: bool) -> None:
    key_id = rotation.key_ids[0]
    if as_json:
        by_key = {key or "plain": sessions for key, sessions in survey.by_key.items()}
        print_json({"executed": False, "key_id": key_id, **asdict(survey), "by_key": by_key})
        return
    table = Table("key", "sessions", "", box=None, pad_edge=False)
    for key in dict.fromkeys([*rotation.key_ids, *sorted(survey.by_key)]):
        table.add_row(key or "none", str(survey.by_key.get(key, 0)), _role(rotation, key))
    out.print(table)
    if survey.locked:
        out.print(
            f"{survey.locked} of {survey.sessions} sessions would be left as they are: SESSION_ENCRYPTION_KEY lacks "
            "their key",
            markup=False,
        )
    if survey.outdated:
        out.print(
            f"would encrypt {survey.outdated} of {survey.sessions} sessions anew with key {key_id}; "
            "add --execute to do it",
            markup=False,
        )
    elif not survey.locked:
        out.print(f"nothing to do: key {key_id} alone opens all {survey.sessions} sessions", markup=False)


def _role(rotation: KeyRotation, key: str) -> str:
    if key == PLAIN:
        return "plain text"
    if key not in rotation.key_ids:
        return "not in SESSION_ENCRYPTION_KEY"
    return "encrypts" if key == rotation.key_ids[0] else "only decrypts"


def _print_report(rotation: KeyRotation, report: RotationReport, as_json: bool) -> None:
    """Raises OpsError where something could not be read."""
    key_id = rotation.key_ids[0]
    if as_json:
        print_json({"executed": True, "key_id": key_id, **asdict(report)})
    else:
        out.print(
            f"encrypted {report.rotated} sessions anew with key {key_id}; {report.already} were so already, "
            f"{report.expired} expired meanwhile",
            markup=False,
        )
    if report.unreadable:
        more = report.unreadable - len(report.unreadable_ids)
        raise OpsError(
            f"{report.unreadable} of the sessions are left as they are, no key in SESSION_ENCRYPTION_KEY opens them: "
            f"{', '.join(report.unreadable_ids)}{f' and {more} more' if more else ''}"
        )
