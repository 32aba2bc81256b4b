"""The worker's member of the consumer group, as it is handed to FastStream."""

from importlib.metadata import version
from typing import Any

from aiokafka import AIOKafkaConsumer

from workers.app import GroupSettings, broker_for


def test_every_bootstrap_server_is_known() -> None:
    """One of them may be away at the start."""
    broker = broker_for(GroupSettings("kafka-1:9092, kafka-2:9092,kafka-3:9092", ("support.inbound.v1",), "workers"))
    assert broker._connection_kwargs["bootstrap_servers"] == ["kafka-1:9092", "kafka-2:9092", "kafka-3:9092"]


async def test_the_consumers_of_the_broker_are_of_the_given_class() -> None:
    """By what FastStream 0.7 keeps in its broker's configuration."""
    assert version("faststream").startswith("0.7.")

    class Ours(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
        pass

    broker = broker_for(GroupSettings("kafka-1:9092", ("support.inbound.v1",), "workers", consumer_class=Ours))
    await broker.connect()
    try:
        builder: Any = broker.config.broker_config.builder
        assert builder.func is Ours
    finally:
        await broker.stop()
