"""`erase`."""

from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from aiokafka.errors import KafkaError

from ops import wiring
from ops.cli.console import err, harmless, out, prepare, print_json, run
from ops.cli.progress import progress
from ops.erasure import ContentTopic, Eraser, Erasure, content_topic
from ops.errors import OpsError, UsageError
from ops.kafka.connection import KafkaConnection
from ops.kafka.reading import started_reader
from ops.kafka.topics import TopicAdmin
from ops.settings import Settings
from schemas.publishing import PublishError
from schemas.topics import MAX_EVENT_BYTES
from store.errors import StoreError


def register(app: typer.Typer) -> None:
    app.command()(erase)


def erase(
    user: Annotated[list[str] | None, typer.Option(help="Everything of this user; repeat for more.")] = None,
    session: Annotated[list[str] | None, typer.Option(help="This session; repeat for more.")] = None,
    execute: Annotated[bool, typer.Option(help="Do it; without this only say what there is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Deletes sessions and destroys the keys of what the topics have of them, also of sessions that have expired.

    Says what is left in plain text, and until when. Exit 1 where that is kept for ever.
    """
    if not user and not session:
        raise UsageError("Say whose: --user ID, or --session ID")
    users, sessions = frozenset(user or ()), frozenset(session or ())
    found = run(_erase(prepare(), users, sessions, execute=execute))
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    if found.executed and found.kept_for_ever:
        raise OpsError(
            f"{found.kept_for_ever} records in plain text are kept for ever; they are older than "
            "TOPIC_ENCRYPTION_ENABLED, or it is off: give their topics a retention, or delete them there"
        )


async def _erase(settings: Settings, users: frozenset[str], given: frozenset[str], *, execute: bool) -> Erasure:
    connection, names = wiring.kafka_connection(settings), wiring.topic_names(settings)
    if not settings.seals_topics:
        err.print("TOPIC_ENCRYPTION_ENABLED is off: what the topics have of new sessions can't be erased", markup=False)
    try:
        async with AsyncExitStack() as stack:
            store = wiring.shared_session_store(settings)
            stack.push_async_callback(store.close)
            seals = await stack.enter_async_context(wiring.session_keys(settings, connection))
            consumer = await stack.enter_async_context(started_reader(connection))
            eraser = Eraser(consumer, await _content_topics(settings, connection), store, seals)
            session_ids = set(given)
            with progress("Looking for sessions") as advance:
                session_ids |= await eraser.sessions_of(users, advance)
            with progress("Looking for plain text") as advance:
                found = await eraser.survey(sorted(session_ids), advance)
            if execute and found.sessions:
                kafka = wiring.publisher(settings, connection, max_record_bytes=MAX_EVENT_BYTES)
                stack.push_async_callback(kafka.close)
                partitions = await kafka.partitions_of(names.replies)
                sessions = wiring.direct_sessions(
                    settings, store=store, kafka=kafka, seals=seals, partitions=partitions
                )
                with progress("Erasing sessions") as advance:
                    await eraser.erase(found, sessions, advance)
            return found
    except (StoreError, PublishError, KafkaError) as error:
        raise OpsError(f"{error} Run it again: what is erased stays so.") from error


async def _content_topics(settings: Settings, connection: KafkaConnection) -> list[ContentTopic]:
    names = wiring.topic_names(settings)
    specs = [spec for spec in wiring.topic_specs_of(settings) if spec.name not in (names.knowledge, names.keys)]
    specs += [replace(specs[0], name=name) for name in settings.extra_inbound_topics]
    async with TopicAdmin(connection) as admin:
        return [content_topic(state) for state in await admin.describe(specs)]


def _document(found: Erasure) -> dict[str, Any]:
    return {
        "executed": found.executed,
        "sessions": [asdict(each) for each in found.sessions],
        "plain": [asdict(each) for each in found.plain],
    }


def _print(found: Erasure) -> None:
    if not found.sessions:
        out.print("no sessions: the store and the topics have none that can be read")
        return
    live = sum(each.live for each in found.sessions)
    keys = sum(each.keys for each in found.sessions)
    for each in found.sessions:
        out.print(
            harmless(f"{each.session_id:40}  {'live' if each.live else 'ended':6}  {each.keys} keys"), markup=False
        )
    whole = f"{len(found.sessions)} sessions ({live} live) and {keys} keys"
    if found.executed:
        out.print(f"erased {whole}", markup=False)
    else:
        out.print(f"would erase {whole}; add --execute to do it", markup=False)
    for plain in found.plain:
        until = f"gone by {plain.gone_by:%Y-%m-%d %H:%M} UTC" if plain.gone_by else "kept for ever"
        out.print(f"{plain.records} records in plain text stay in {plain.topic}: {until}", markup=False)
