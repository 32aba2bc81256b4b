"""`publish`: one inbound event onto the topic, as another system would."""

from typing import Annotated
from uuid import uuid4

import orjson
import typer

from ops import wiring
from ops.cli.console import out, prepare, print_json, run
from ops.errors import OpsError, UsageError
from ops.settings import Settings
from schemas.errors import InvalidRecord
from schemas.inbound import InboundEvent, decode_inbound, encode_inbound
from schemas.publishing import Position, PublishError, Record
from schemas.topics import MAX_EVENT_BYTES


def register(app: typer.Typer) -> None:
    app.command()(publish)


def publish(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    text: Annotated[str, typer.Argument(help="What the customer says.")],
    user: Annotated[str | None, typer.Option(help="The customer's id.")] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Idempotency id; default: a new one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Publishes a message; returns when Kafka has it. The answer goes to the reply topic."""
    settings = prepare()
    body = {"text": text, "session_id": session, "id": event_id or str(uuid4()), "user_id": user}
    try:
        event = decode_inbound(orjson.dumps(body), session.encode(), "", 0, 0)
    except InvalidRecord as error:
        raise UsageError(error.detail) from error
    position = run(_publish(settings, event))
    if as_json:
        print_json(
            {"id": event.id, "topic": position.topic, "partition": position.partition, "offset": position.offset}
        )
    else:
        out.print(f"{event.id} is in {position.topic}, partition {position.partition}, offset {position.offset}")


async def _publish(settings: Settings, event: InboundEvent) -> Position:
    connection = wiring.kafka_connection(settings)
    kafka = wiring.publisher(settings, connection, max_record_bytes=MAX_EVENT_BYTES)
    topic = wiring.topic_names(settings).inbound
    session_id = event.session_id
    try:
        async with wiring.session_keys(settings, connection) as seals:
            publisher = wiring.sealing(settings, kafka, seals)
            return await publisher.publish(
                Record(topic, session_id.encode(), encode_inbound(event), seal_for=session_id)
            )
    except PublishError as error:
        raise OpsError(str(error)) from error
    finally:
        await kafka.close()
