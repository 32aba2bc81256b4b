"""Creating, showing and checking the topics."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.group_members import GroupMember
from schemas.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as the broker has it. `partitions` 0: it isn't there."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


class TopicAdmin:
    """Talks to the broker about topics; use as an async context manager."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._client = AIOKafkaAdminClient(**connection.client_arguments())

    async def __aenter__(self) -> "TopicAdmin":
        try:
            await self._client.start()
        except (KafkaError, OSError) as error:
            await self._client.close()
            raise OpsError(f"No Kafka broker answers at {self._connection.bootstrap_servers}: {error}") from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    async def create(self, specs: Sequence[TopicSpec], replication_factor: int) -> list[str]:
        """Creates what is missing; returns the names of those created.

        Raises:
            OpsError: the broker refused one.
        """
        response = await self._client.create_topics(
            [
                NewTopic(
                    spec.name,
                    spec.partitions,
                    replication_factor,
                    # aiokafka wants a choice between counts and an assignment; -1 (the broker's default) needs both.
                    replica_assignments={} if replication_factor == -1 else None,
                    topic_configs=spec.configs,
                )
                for spec in specs
            ]
        )
        created = []
        for name, code, *message in response.topic_errors:
            error = for_code(code)
            if not code:
                created.append(name)
            elif error is not TopicAlreadyExistsError:
                raise OpsError(f"Topic {name} was not created: {error.__name__} {' '.join(filter(None, message))}")
        return created

    async def grow(self, topic: str, partitions: int) -> None:
        """Gives `topic` so many partitions in all.

        Raises:
            OpsError: the broker refused.
        """
        try:
            await self._client.create_partitions({topic: NewPartitions(partitions)})
        except KafkaError as error:
            raise OpsError(f"Topic {topic} was not given {partitions} partitions: {error}") from error

    async def partition_count(self, topic: str) -> int:
        """Raises OpsError when there is no such topic."""
        if topic not in await self._client.list_topics():
            raise OpsError(f"Topic {topic} is not there: supportstream topics create")
        [described] = await self._client.describe_topics([topic])
        return len(described["partitions"])

    async def max_message_bytes(self, topic: str) -> int | None:
        """The largest batch of records that the topic takes; None where the broker doesn't tell."""
        told = (await self.configs([topic])).get(topic, {}).get("max.message.bytes")
        return int(told) if told else None

    async def configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """The configuration of each topic; nothing where the broker doesn't tell, or there is no such topic."""
        try:
            return await self._configs(list(topics))
        except (KafkaError, ValueError):  # it doesn't know the question, or doesn't let us ask
            return {}

    async def group_offsets(self, group: str) -> dict[tuple[str, int], int]:
        """What the consumer group has committed."""
        offsets = await self._client.list_consumer_group_offsets(group)
        return {(place.topic, place.partition): at.offset for place, at in offsets.items() if at.offset >= 0}

    async def members_of(self, group: str) -> list[GroupMember]:
        """The members that the consumer group has now."""
        [response] = await self._client.describe_consumer_groups([group])
        return [
            GroupMember(member_id, client_id, host.removeprefix("/"))
            for described in response.groups
            for member_id, client_id, host, *_ in described[5]
        ]

    async def describe(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        """The state of each topic, in the order of `specs`."""
        # Asking about a topic that isn't there may create it, where a broker allows that.
        present = set(await self._client.list_topics()).intersection(spec.name for spec in specs)
        described = await self._client.describe_topics(sorted(present)) if present else []
        found = {topic["topic"]: topic["partitions"] for topic in described if not topic["error_code"]}
        configs = await self._configs(list(found))
        return [
            TopicState(
                spec.name,
                len(partitions := found.get(spec.name, [])),
                len(partitions[0]["replicas"]) if partitions else 0,
                configs.get(spec.name, {}),
            )
            for spec in specs
        ]

    async def _configs(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        responses = await self._client.describe_configs(resources)
        return {
            resource[3]: {entry[0]: entry[1] for entry in resource[4]}
            for response in responses
            for resource in response.resources
        }


def problems(spec: TopicSpec, state: TopicState) -> list[str]:
    """What about the topic differs from what the pipeline needs, as sentences; none: all is well."""
    if state.partitions == 0:
        return [f"{spec.name} is missing: supportstream topics create"]
    found = []
    if state.partitions != spec.partitions:
        found.append(f"{spec.name} has {state.partitions} partitions, TOPIC_PARTITIONS says {spec.partitions}")
    for name, wanted in spec.configs.items():
        if state.config and state.config.get(name) != wanted:
            found.append(f"{spec.name}: {name} is {state.config.get(name)}, expected {wanted}")
    return found
