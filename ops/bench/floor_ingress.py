"""The ingress half of the hand-written floor: socket → Kafka, Kafka → socket, and nothing else.

The yardstick of `supportstream bench turns`: no framework, no validation, no tokens, no resume, no metrics.
Reads KAFKA_BOOTSTRAP_SERVERS, TOPIC_PREFIX and API_PORT. Start it with `python -m ops.bench.floor_ingress`.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import TYPE_CHECKING

import orjson
import uvicorn
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


def edge(producer: AIOKafkaProducer, inbound: str, sockets: dict[bytes, Send]) -> ASGIApp:
    """An ASGI application whose every WebSocket is one new session, listed in `sockets` while it is open."""

    async def serve_socket(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept", "subprotocol": "support.v1.json"})
        await receive()  # hello
        session_id = uuid.uuid4().hex
        key = session_id.encode()
        sockets[key] = send
        welcome = {"type": "welcome", "session_id": session_id}
        await send({"type": "websocket.send", "text": orjson.dumps(welcome).decode()})
        try:
            while (event := await receive())["type"] == "websocket.receive":
                await producer.send_and_wait(inbound, event["text"].encode(), key)
        finally:
            del sockets[key]

    return serve_socket


async def deliver(consumer: AIOKafkaConsumer, sockets: dict[bytes, Send]) -> None:
    """Write every reply to the socket of its session, as it is."""
    while True:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            for record in records:
                if send := sockets.get(record.key):
                    try:
                        await send({"type": "websocket.send", "text": record.value.decode()})
                    except OSError:  # ASGI's word for a client that has just gone: nobody waits for this reply
                        continue


async def serve(bootstrap_servers: str, topic_prefix: str, port: int) -> None:
    """Serve WebSockets on 127.0.0.1:`port` until SIGTERM."""
    replies = f"{topic_prefix}replies.v1"
    sockets: dict[bytes, Send] = {}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, enable_auto_commit=False)
    async with producer, consumer:
        partitions = [TopicPartition(replies, number) for number in sorted(await producer.partitions_for(replies))]
        consumer.assign(partitions)
        await consumer.seek_to_end()
        config = uvicorn.Config(
            edge(producer, f"{topic_prefix}inbound.v1", sockets),
            port=port,
            ws="websockets-sansio",
            ws_max_size=64 * 1024,
            ws_per_message_deflate=False,
            lifespan="off",
            log_level="warning",
        )
        async with asyncio.TaskGroup() as tasks:
            delivery = tasks.create_task(deliver(consumer, sockets))
            await uvicorn.Server(config).serve()
            delivery.cancel()


if __name__ == "__main__":
    uvloop.run(serve(os.environ["KAFKA_BOOTSTRAP_SERVERS"], os.environ["TOPIC_PREFIX"], int(os.environ["API_PORT"])))
