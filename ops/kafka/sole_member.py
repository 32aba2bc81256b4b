"""A lock that Kafka keeps: the only member of a consumer group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.topics import TopicAdmin
from schemas.topics import DAY_MS


@asynccontextmanager
async def sole_member(connection: KafkaConnection, group: str, topic: str, what: str) -> AsyncIterator[None]:
    """No other process is in the block with the same `group`. `topic` is one that exists; nothing of it is read.

    The membership ends with the block; after a crash Kafka ends it within ten seconds. Of two that come at the same
    moment neither may enter.

    Raises:
        OpsError: another member is in the block; `what` names the work.
    """
    consumer = AIOKafkaConsumer(
        topic, **connection.client_arguments(), group_id=group, enable_auto_commit=False, max_poll_interval_ms=DAY_MS
    )
    try:
        await consumer.start()
        async with TopicAdmin(connection) as admin:
            members = await admin.members_of(group)
        if len(members) > 1:
            hosts = ", ".join(sorted({each.host or "?" for each in members}))
            raise OpsError(f"another {what} is running (on one of {hosts}): wait for its end, and run this again")
        yield
    except KafkaError as error:
        raise OpsError(f"The consumer group {group} can't be joined: {error or type(error).__name__}") from error
    finally:
        await consumer.stop()
