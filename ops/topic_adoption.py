"""Going on with a topic that was created again, or lost its end.

What sessions and store remember of the old log's offsets would make the new one's records look done, so workers refuse
it. Adopting it begins a new life of the topic (`workers.incarnations`): its records are taken as new.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.topics import TopicAdmin
from schemas.incarnation import incarnation_key, parse_incarnation
from store.protocol import SessionStore
from workers.incarnations import Incarnations

StartAt = Literal["beginning", "end"]


@dataclass(frozen=True, slots=True)
class Shorter:
    """A partition that ends below what was done of it."""

    partition: int
    end: int
    done_below: int


@dataclass(frozen=True, slots=True)
class Adoption:
    """What would be done."""

    topic: str
    incarnation: int
    """The number of the new life."""
    shorter: list[Shorter]
    begins: Mapping[int, int]
    ends: Mapping[int, int]


class TopicAdoption:
    """Looks at a topic, and begins its new life. No worker may run meanwhile."""

    def __init__(self, connection: KafkaConnection, store: SessionStore, group: str) -> None:
        self._connection = connection
        self._store = store
        self._group = group

    async def plan(self, topic: str, partitions: int) -> Adoption:
        """Raises OpsError when workers run, or when nothing is wrong with the topic."""
        async with TopicAdmin(self._connection) as admin:
            if members := len(await admin.members_of(self._group)):
                raise OpsError(f"{members} workers run in group {self._group}. Stop them first.")
            committed = await admin.group_offsets(self._group)
        incarnations = Incarnations(self._store)
        await incarnations.learn([topic])
        name = incarnations.name(topic)
        done = await self._store.progress([f"{name}:{number}" for number in range(partitions)])
        begins, ends = await self._bounds(topic, partitions)
        below = {n: max(done.get(f"{name}:{n}", 0), committed.get((topic, n), 0)) for n in range(partitions)}
        shorter = [Shorter(n, ends[n], below[n]) for n in range(partitions) if ends[n] < below[n]]
        if not shorter:
            raise OpsError(f"Nothing is wrong with {topic}: no partition ends below what was done of it.")
        return Adoption(topic, parse_incarnation(name)[1] + 1, shorter, begins, ends)

    async def execute(self, adoption: Adoption, start_at: StartAt | None) -> None:
        """First where the group goes on (None: it does not read this topic), then the new life: interrupted in between,
        workers still refuse the topic.

        Raises:
            OpsError: a worker has joined the group meanwhile.
        """
        if start_at is not None:
            await self._move_group(adoption, start_at)
        await self._store.save_progress({incarnation_key(adoption.topic): adoption.incarnation})

    async def _move_group(self, adoption: Adoption, start_at: StartAt) -> None:
        offsets = adoption.begins if start_at == "beginning" else adoption.ends
        consumer = AIOKafkaConsumer(
            **self._connection.client_arguments(), group_id=self._group, enable_auto_commit=False
        )
        await consumer.start()
        try:
            places = {TopicPartition(adoption.topic, number): offset for number, offset in offsets.items()}
            consumer.assign(list(places))
            await consumer.commit(places)
        except KafkaError as error:
            raise OpsError(f"The group's offsets can't be set; does a worker run? {error}") from error
        finally:
            await consumer.stop()

    async def _bounds(self, topic: str, partitions: int) -> tuple[dict[int, int], dict[int, int]]:
        consumer = self._connection.span_reader()
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in range(partitions)]
            begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        finally:
            await consumer.stop()
        return (
            {place.partition: offset for place, offset in begins.items()},
            {place.partition: offset for place, offset in ends.items()},
        )
