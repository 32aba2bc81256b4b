"""The `--html` option: a report as a page in a file."""

from pathlib import Path

import typer

from ops.cli.console import err
from ops.errors import OpsError, UsageError


def _in_a_directory(path: Path | None) -> Path | None:
    """Before the work is done, not after it."""
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"There is no directory {path.parent} for --html {path.name}")
    return path


HTML_OPTION = typer.Option(dir_okay=False, callback=_in_a_directory, help="Write it as a page to this file.")


def write_page(path: Path, page: str) -> None:
    """Raises OpsError where the file can't be written."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OpsError(f"{path} can't be written: {error.strerror}") from error
    err.print(f"written to {path}", markup=False)
