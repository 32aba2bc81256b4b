"""`sessions show|list|delete`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import typer

from ops import wiring
from ops.cli.console import err, harmless, out, prepare, print_json, run
from ops.errors import OpsError
from ops.settings import Settings
from schemas.publishing import PublishError
from schemas.replies import ReplyEvent, SessionUpdated, TurnCompleted, TurnFailed, decode_reply
from schemas.session import RECENT_EVENTS, SessionData
from schemas.topics import MAX_EVENT_BYTES
from store.errors import CorruptSession, StoreError, WrongKey
from store.redis import RedisSessionStore

app = typer.Typer(help="Sessions as the store has them.", no_args_is_help=True)
SessionId = Annotated[str, typer.Argument(help="The session's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON document.")]

_PAGE = 256


@app.command()
def show(
    session_id: SessionId,
    turns: Annotated[int, typer.Option(min=0, max=RECENT_EVENTS, help="Its newest turns, too; this many.")] = 0,
    as_json: AsJson = False,
) -> None:
    """The fields of a session."""
    session, events = run(_read(prepare(), session_id, turns))
    if as_json:
        print_json({**session.to_dict(), **({"turns": [orjson.loads(event) for event in events]} if turns else {})})
        return
    fields = session.to_dict()
    width = max(map(len, fields))
    for name, value in fields.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        out.print(f"{name:{width}}  {harmless(text)}", markup=False)
    for event in events:
        out.print(f"\n{harmless(_turn_text(_decoded(event)))}", markup=False)


async def _read(settings: Settings, session_id: str, turns: int) -> tuple[SessionData, list[bytes]]:
    store = wiring.shared_session_store(settings)
    try:
        session = await store.get(session_id)
        if session is None:
            raise OpsError(f"There is no session {session_id}; see: supportstream sessions list")
        events = await store.events(session_id, max(0, session.seq - turns)) if turns else []
        return session, list(events)[-turns:]
    except StoreError as error:
        raise OpsError(str(error)) from error
    finally:
        await store.close()


def _decoded(event: bytes) -> ReplyEvent:
    try:
        return decode_reply(event)
    except ValueError as error:
        raise OpsError(f"An event can't be read (--json shows it as it is): {error}") from error


def _turn_text(event: ReplyEvent) -> str:
    lines = [f"{event.seq}  {event.completed_at}  {event.type}"]
    match event:
        case TurnCompleted(message=message, reply=reply):
            lines += [f"  customer: {message.text}"] if message else []
            lines += [f"  reply: {reply.text}"] if reply else []
        case TurnFailed(code=code, error=error):
            lines.append(f"  {code}: {error}")
        case SessionUpdated(changes=changes):
            made = {name: value for name, value in asdict(changes).items() if value is not None}
            lines.append(f"  {orjson.dumps(made).decode()}")
    return "\n".join(lines)


@app.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option(min=1, help="At most this many, in no order.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Sessions, each with its number of messages and its last activity."""
    run(_list(prepare(), limit, as_json))


async def _list(settings: Settings, limit: int, as_json: bool) -> None:
    store = wiring.shared_session_store(settings)
    found: list[dict[str, Any]] = []
    try:
        async with aclosing(_summaries(store, min(_PAGE, limit + 1))) as summaries:
            async for summary in summaries:
                if len(found) == limit:
                    err.print(f"there are more than {limit}; see --limit", markup=False)
                    break
                found.append(summary)
                if not as_json:
                    out.print(_line(summary), markup=False)
    except StoreError as error:
        raise OpsError(str(error)) from error
    finally:
        await store.close()
    if as_json:
        print_json(found)


async def _summaries(store: RedisSessionStore, page_size: int) -> AsyncGenerator[dict[str, Any]]:
    """One a session; one that can't be read says why, and holds up none of the others."""
    async with aclosing(store.session_id_pages(page_size)) as pages:
        async for session_ids in pages:
            for summary in await asyncio.gather(*(_summary(store, session_id) for session_id in session_ids)):
                if summary is not None:
                    yield summary


async def _summary(store: RedisSessionStore, session_id: str) -> dict[str, Any] | None:
    """None: deleted, or expired meanwhile."""
    try:
        session = await store.get(session_id)
    except (WrongKey, CorruptSession) as error:
        return {"session_id": session_id, "error": str(error)}
    if session is None:
        return None
    return {
        "session_id": session_id,
        "message_count": session.message_count,
        "last_activity": session.last_activity,
    }


def _line(summary: dict[str, Any]) -> str:
    if "error" in summary:
        return f"{harmless(summary['session_id']):40}  {summary['error']}"
    return f"{harmless(summary['session_id']):40}  {summary['message_count']:>6} messages  {summary['last_activity']}"


@app.command()
def delete(
    session_id: SessionId,
    execute: Annotated[bool, typer.Option(help="Do it; without this only say what would happen.")] = False,
) -> None:
    """Forgets a session, and publishes that; clients that have it open begin anew."""
    settings = prepare()
    if not execute:
        session, _ = run(_read(settings, session_id, 0))
        out.print(
            f"would delete {session_id} (messages: {session.message_count}, last activity: "
            f"{session.last_activity or 'none'}); add --execute to do it",
            markup=False,
        )
        return
    if not run(_delete(settings, session_id)):
        raise OpsError(f"There is no session {session_id}; see: supportstream sessions list")
    out.print(f"deleted {session_id}", markup=False)


async def _delete(settings: Settings, session_id: str) -> bool:
    connection = wiring.kafka_connection(settings)
    kafka = wiring.publisher(settings, connection, max_record_bytes=MAX_EVENT_BYTES)
    store = wiring.shared_session_store(settings)
    try:
        partitions = await kafka.partitions_of(wiring.topic_names(settings).replies)
        async with wiring.session_keys(settings, connection) as seals:
            sessions = wiring.direct_sessions(settings, store=store, kafka=kafka, seals=seals, partitions=partitions)
            return await sessions.delete(session_id)
    except (StoreError, PublishError) as error:
        raise OpsError(str(error)) from error
    finally:
        await kafka.close()
        await store.close()
