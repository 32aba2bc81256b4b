"""`chat`: talk to the assistant in a terminal."""

import asyncio
import sys
from typing import Annotated

import typer

from ops.cli.console import err, out, prepare, run
from ops.cli.processes import print_answer
from ops.client import ChatClient, Refused


def register(app: typer.Typer) -> None:
    app.command()(chat)


def chat(
    url: Annotated[str | None, typer.Option(help="Of the ingress; default: this machine, API_PORT.")] = None,
    session: Annotated[str | None, typer.Option(help="Continue this session.")] = None,
    token: Annotated[str | None, typer.Option(help="The session's token.")] = None,
) -> None:
    """Ask, one line a question; an empty line or Ctrl+D ends it. Reconnects and resumes by itself."""
    settings = prepare(log_level="error")
    run(_chat(url or f"http://{settings.api_host}:{settings.api_port}", session, token))


async def _chat(url: str, session: str | None, token: str | None) -> None:
    client = ChatClient(url, session, token, on_reconnect=lambda: err.print("reconnecting …", style="dim"))
    interactive = sys.stdin.isatty()
    try:
        while True:
            if interactive:
                out.print("[bold cyan]you[/bold cyan]  ", end="")
            question = (await asyncio.to_thread(sys.stdin.readline)).strip()
            if not question:
                return
            await _answer(client, question, interactive)
    finally:
        await client.close()
        if interactive and client.session_id:
            err.print(f"session {client.session_id}", style="dim")


async def _answer(client: ChatClient, question: str, interactive: bool) -> None:
    streamed = False

    def show(piece: str) -> None:
        nonlocal streamed
        streamed = True
        err.print(piece, end="", style="dim", markup=False)

    try:
        frame = await client.ask(question, show if interactive else lambda piece: None)
    except Refused as refusal:
        err.print(str(refusal), style="red", markup=False)
        return
    if streamed:
        err.print()
    print_answer(frame)
