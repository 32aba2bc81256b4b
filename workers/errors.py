"""Errors of a worker. Those of a turn are split into retryable and permanent."""

from aiokafka.errors import KafkaError


class WorkerError(Exception):
    """Anything that ends a turn early."""


class TransientError(WorkerError):
    """A later attempt may succeed: the lane waits and tries again."""


class PermanentError(WorkerError):
    """No attempt will succeed: the record goes to the dead letter topic with `reason`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class StoreForgot(WorkerError):
    """The store lacks what this process wrote: repair the partition before anything else is done in it."""


class NotOwner(WorkerError):
    """A later owner has written: this process must leave the partition's records to it."""

    def __init__(self, session_id: str, token: int) -> None:
        super().__init__(f"session {session_id} was written under the later fence {token}")
        self.session_id = session_id
        self.token = token


class LogCut(Exception):
    """A topic is not the one that was read before: it was created again, or lost its end. A person must decide."""

    def __init__(self, topic: str, partition: int, seen_by: str) -> None:
        super().__init__(
            f"{topic}:{partition} {seen_by}: the topic was created again, or lost its end. What to do: supportstream "
            f"topics adopt {topic}"
        )

    @classmethod
    def ends_below(cls, topic: str, partition: int, end: int, below: int) -> "LogCut":
        """The log ends at `end`, below what was applied."""
        return cls(topic, partition, f"ends at {end}, but records up to {below} were applied")


class ClientBroken(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """A Kafka client has ended inside, and will never deliver again: only a new one helps."""


class PartitionUnreadable(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """The next batch of a partition can't be decoded, so nothing of it is taken and nothing behind it is read."""

    def __init__(self, topic: str, partition: int, offset: int, reason: str) -> None:
        super().__init__(
            f"{topic}:{partition} can't be read at offset {offset}: {reason}. Records before it are answered, those "
            "behind it wait. What to do: docs/operations.md#a-partition-cant-be-read"
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.reason = reason
