"""Turns that take longer than Kafka lets a consumer go without polling."""

import asyncio
from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.kafka.screened_consumer import ScreenedConsumer
from ops.local.kafka import KafkaServer
from store.l1 import L1Cache
from store.memory import MemorySessionStore
from store.protocol import Fence
from tests.polling import eventually
from tests.topic_records import producer
from workers.app import GroupSettings, WorkerApp
from workers.cancellations import Cancellations
from workers.dispatch import Dispatcher, DispatchSettings
from workers.incarnations import Incarnations
from workers.marks import ReplyMarks
from workers.observer import SilentObserver
from workers.places import Place
from workers.records import Partition, Taken

POLL_INTERVAL_S = 1.5
TURN_S = 3 * POLL_INTERVAL_S


class NoRepair:
    def noticed(self, sign: str) -> None: ...

    async def run(self, partitions: Iterable[Partition], fence: Fence) -> None: ...


async def test_a_turn_longer_than_the_poll_interval_does_not_end_membership(
    kafka: KafkaServer, topic_prefix: str
) -> None:
    """L, D: polling goes on while lanes work, also when the partition is full and paused."""
    topic = f"{topic_prefix}inbound.v1"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    async with producer(kafka.bootstrap_servers) as client:
        for n in range(4):
            await client.send_and_wait(topic, b'{"text": "Hello?"}', f"s{n}".encode(), 0)
    app = WorkerApp(
        GroupSettings(
            kafka.bootstrap_servers,
            (topic,),
            f"{topic_prefix}group",
            session_timeout_ms=2_000,
            heartbeat_interval_ms=500,
            max_poll_interval_ms=int(POLL_INTERVAL_S * 1000),
            consumer_class=ScreenedConsumer,
        ),
        SilentObserver(),
    )
    ran: list[int] = []
    assigned = 0

    async def run_turn(taken: Taken, place: Place) -> None:
        ran.append(taken.record.offset)
        await asyncio.sleep(TURN_S)

    async def learn_partitions(partitions: Iterable[Partition]) -> None:
        nonlocal assigned
        assigned += 1

    async def nothing_published() -> None: ...

    store = MemorySessionStore(ttl_seconds=60)
    dispatcher = Dispatcher(
        run_turn=run_turn,
        store=store,
        l1=L1Cache(size=0, ttl_seconds=1),
        cancellations=Cancellations(),
        consumer=app.consumer,
        repair=NoRepair(),
        marks=ReplyMarks(topic),
        incarnations=Incarnations(store),
        learn_partitions=learn_partitions,
        settle_publishing=nothing_published,
        observer=SilentObserver(),
        settings=DispatchSettings(max_open_per_partition=4),
    )
    await app.start(dispatcher)
    try:

        async def all_committed() -> bool:
            place = Partition(topic, 0)
            return (await app.consumer.committed_offsets([place])).get(place) == 4

        await eventually(all_committed, "everything is committed")
    finally:
        await app.stop()
    assert ran == [0, 1, 2, 3], "a record was taken again"
    assert assigned == 1, "the member was thrown out and joined again"
