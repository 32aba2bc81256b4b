"""The commands, each in the file of its concern."""

import sys

import typer

from ops.cli import (
    bench,
    chat,
    check,
    dlq,
    erase,
    explain,
    keys,
    knowledge,
    processes,
    publish,
    replay,
    sessions,
    topics,
    transfer,
    verify,
    whatif,
)
from ops.cli.console import err
from ops.errors import OpsError

app = typer.Typer(
    name="supportstream",
    help="A customer-support assistant as an event-driven worker pipeline on Kafka and Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (processes, publish, chat, check, verify, replay, explain, transfer, whatif, erase):
    module.register(app)
app.add_typer(topics.app, name="topics")
app.add_typer(knowledge.app, name="knowledge")
app.add_typer(sessions.app, name="sessions")
app.add_typer(dlq.app, name="dlq")
app.add_typer(keys.app, name="keys")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Entry point. An error that a person can act on is one line, not a traceback."""
    try:
        app()
    except OpsError as error:
        err.print("supportstream: ", style="red", end="")
        err.print(str(error), markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
