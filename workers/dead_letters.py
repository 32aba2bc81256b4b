"""The dead letter topic: records that no attempt can answer, as they came, with the reason."""

from schemas.publishing import Publisher, Record
from workers.records import Taken


class DeadLetters:
    """Writes records that could not become a turn."""

    def __init__(self, publisher: Publisher, topic: str) -> None:
        self._publisher = publisher
        self._topic = topic

    async def write(self, taken: Taken, *, reason: str, error: str, attempts: int, failed_at: str) -> None:
        """Original key, value (as it came, or sealed) and headers, and beside them where the record stood and why it is
        here.

        Raises:
            PublishError: the record is not in the topic, so its offset must not be marked done.
        """
        record = taken.record
        headers = [
            *record.headers,
            ("dlq.reason", reason.encode()),
            ("dlq.error", error[:500].encode()),
            ("dlq.attempts", str(attempts).encode()),
            ("dlq.topic", record.topic.encode()),
            ("dlq.partition", str(record.partition).encode()),
            ("dlq.offset", str(record.offset).encode()),
            ("dlq.failed_at", failed_at.encode()),
        ]
        # aiokafka sends no record that has neither key nor value.
        value = b"" if record.value is None and record.key is None else record.value
        await self._publisher.publish(
            Record(self._topic, record.key, value, headers=headers, seal_for=taken.session_id)
        )
