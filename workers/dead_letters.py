"""The dead letter topic: records that no attempt can answer, as they came, with the reason."""

from collections.abc import Sequence
from hashlib import sha256

from schemas.headers import header
from schemas.publishing import BrokerUnavailable, Publisher, Record, RecordTooLarge
from workers.records import FIRST_BYTES, KafkaRecord, Taken, UnreadableRecord, offset_after

MAX_ERROR_BYTES = 500
MAX_KEY_BYTES = 512
"""Of a letter without its value; a session id has 128 at most."""

KEPT_HEADERS = ("ce_id", "dlq.redriven")
"""Of the record, in a letter without its value: its inbound id, and the letter that it was sent back from."""

Headers = Sequence[tuple[str, bytes]]


class DeadLetters:
    """Writes records that could not become a turn. `shows_content` is false where content must be sealed."""

    def __init__(self, publisher: Publisher, topic: str, *, shows_content: bool = True) -> None:
        self._publisher = publisher
        self._topic = topic
        self._shows_content = shows_content

    async def write(self, taken: Taken, *, reason: str, error: str, attempts: int, failed_at: str) -> None:
        """Writes the record: its key, value (as it came, or sealed) and headers, and beside them where it stood and why
        it is here. What the topic does not take goes there without its value: place, size, digest, first bytes.

        Raises:
            BrokerUnavailable: the record is not in the topic, so its offset must not be marked done.
        """
        record = taken.record
        about = _about(record, reason, error, attempts, failed_at)
        if isinstance(record, UnreadableRecord):
            await self._write_without_value(taken, about)
            return
        # aiokafka sends no record that has neither key nor value.
        value = b"" if record.value is None and record.key is None else record.value
        try:
            await self._publisher.publish(
                Record(self._topic, record.key, value, headers=[*record.headers, *about], seal_for=taken.session_id)
            )
        except RecordTooLarge:
            await self._write_without_value(taken, about)

    async def _write_without_value(self, taken: Taken, about: Headers) -> None:
        record = taken.record
        key = record.key if record.key is not None and len(record.key) <= MAX_KEY_BYTES else None
        headers = [*about, *self._about_value(record)]
        for name in KEPT_HEADERS:
            value = header(record.headers, name)
            if value is not None and len(value) <= MAX_KEY_BYTES:
                headers.append((name, value))
        try:
            await self._publisher.publish(Record(self._topic, key, None if key else b"", headers=headers))
        except RecordTooLarge as error:
            raise BrokerUnavailable(
                f"The dead letter topic {self._topic} does not even take {key!r} with where its record stood: "
                f"{error} Raise its max.message.bytes."
            ) from error

    def _about_value(self, record: KafkaRecord) -> Headers:
        if isinstance(record, UnreadableRecord):
            size, digest, first = record.size, record.digest, record.first_bytes
        else:
            value = record.value or b""
            size, digest, first = len(value), sha256(value).hexdigest(), value[:FIRST_BYTES]
        shown = [("dlq.first_bytes", first)] if self._shows_content else []
        return [("dlq.size", str(size).encode()), ("dlq.digest", digest.encode()), *shown]


def _about(record: KafkaRecord, reason: str, error: str, attempts: int, failed_at: str) -> Headers:
    headers = [
        ("dlq.reason", reason.encode()),
        ("dlq.error", error.encode()[:MAX_ERROR_BYTES].decode(errors="ignore").encode()),
        ("dlq.attempts", str(attempts).encode()),
        ("dlq.topic", record.topic.encode()),
        ("dlq.partition", str(record.partition).encode()),
        ("dlq.offset", str(record.offset).encode()),
        ("dlq.failed_at", failed_at.encode()),
    ]
    if (last := offset_after(record) - 1) != record.offset:
        headers.append(("dlq.last_offset", str(last).encode()))
    return headers
