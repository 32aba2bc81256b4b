"""The worker's member of the consumer group, as it is handed to FastStream."""

from workers.app import GroupSettings, broker_for


def test_every_bootstrap_server_is_known() -> None:
    """One of them may be away at the start."""
    broker = broker_for(GroupSettings("kafka-1:9092, kafka-2:9092,kafka-3:9092", ("support.inbound.v1",), "workers"))
    assert broker._connection_kwargs["bootstrap_servers"] == ["kafka-1:9092", "kafka-2:9092", "kafka-3:9092"]
