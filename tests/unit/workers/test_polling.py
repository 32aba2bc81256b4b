"""The consumer loop: whatever a poll raises, nothing is skipped, and one partition that fails is no other's trouble."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaConnectionError, UnknownError

from tests.unit.workers.fakes import TOPICS, FakeRecord, RecordingObserver, until
from workers.errors import ClientBroken, LogCut, PartitionUnreadable
from workers.polling import FAILURES_IN_A_ROW, TRY_AGAIN_SECONDS, RecordLoop
from workers.records import KafkaRecord, Partition

P0, P1 = Partition(TOPICS.inbound, 0), Partition(TOPICS.inbound, 1)


class Unheard(Exception):
    """A type that the loop does not know."""


class FakePolled:
    """A consumer with a log for each partition. `fails` says with what the next poll of these partitions ends."""

    def __init__(self, *assigned: Partition) -> None:
        self.logs: dict[TopicPartition, list[FakeRecord]] = {TopicPartition(*each): [] for each in assigned}
        self.positions = dict.fromkeys(self.logs, 0)
        self.seeks: list[tuple[Partition, int]] = []
        self.paused_places: set[TopicPartition] = set()
        self.fails: Callable[[set[Partition]], Exception | None] = lambda asked: None
        self.stopped = False
        self.polls = 0

    def produce(self, partition: Partition, *offsets: int) -> None:
        self.logs[TopicPartition(*partition)] += [FakeRecord(*partition, offset, b"s1", b"{}") for offset in offsets]

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int | None
    ) -> dict[TopicPartition, list[Any]]:
        self.polls += 1
        await asyncio.sleep(0)
        if self.stopped:
            raise ConsumerStoppedError
        places = {*(partitions or self.logs)} - self.paused_places
        if (error := self.fails({Partition(*place) for place in places})) is not None:
            raise error
        batches: dict[TopicPartition, list[Any]] = {}
        for place in places:
            if found := [each for each in self.logs[place] if each.offset >= self.positions[place]][:max_records]:
                batches[place] = list(found)
                self.positions[place] = found[-1].offset + 1
        return batches

    def assignment(self) -> set[TopicPartition]:
        return set(self.logs)

    def paused(self) -> set[TopicPartition]:
        return set(self.paused_places)

    def pause(self, *partitions: TopicPartition) -> None:
        assert self.logs.keys() >= set(partitions), "aiokafka raises for a partition that is not assigned"
        self.paused_places |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        assert self.logs.keys() >= set(partitions)
        self.paused_places -= set(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        assert partition in self.logs
        self.positions[partition] = offset
        self.seeks.append((Partition(*partition), offset))


class Polling:
    """A loop with its fakes, and what it handed on."""

    def __init__(self, *assigned: Partition, is_fatal: Callable[[Exception], bool] = lambda error: False) -> None:
        self.consumer = FakePolled(*assigned)
        self.observer = RecordingObserver()
        self.accepted: dict[Partition, list[int]] = {each: [] for each in assigned}
        self.accept_errors: list[Exception] = []
        self.refused: list[tuple[Partition, Exception]] = []
        self.now = 1_000.0
        self.pauses = 0
        self.loop = RecordLoop(
            lambda: self.consumer,
            accept=self._accept,
            refuse=self._refuse,
            observer=self.observer,
            max_records=100,
            is_fatal=is_fatal,
            clock=lambda: self.now,
            sleep=self._sleep,
        )

    def _accept(self, records: Sequence[KafkaRecord]) -> None:
        if self.accept_errors:
            raise self.accept_errors.pop(0)
        for record in records:
            self.accepted[Partition(record.topic, record.partition)].append(record.offset)

    def _refuse(self, partition: Partition, error: Exception) -> None:
        self.refused.append((partition, error))
        self.loop.hold(partition)

    async def _sleep(self, seconds: float) -> None:
        self.pauses += 1
        await asyncio.sleep(0)

    async def polls(self, count: int = 3) -> None:
        """Returns after so many polls more."""
        wanted = self.consumer.polls + count
        await until(lambda: self.consumer.polls >= wanted)


@asynccontextmanager
async def polling(*assigned: Partition) -> AsyncIterator[Polling]:
    """A loop that runs, and reads these partitions from their beginning."""
    made = Polling(*assigned)
    for partition in assigned:
        made.loop.start(partition, 0)
    running = asyncio.create_task(made.loop.run())
    try:
        yield made
        assert not running.done(), "the loop ended by itself"
    finally:
        made.consumer.stopped = True
        async with asyncio.timeout(5.0):
            await running


def failing_of(partition: Partition, error: Exception) -> Callable[[set[Partition]], Exception | None]:
    return lambda asked: error if partition in asked else None


async def test_records_of_all_partitions_are_handed_on_in_order() -> None:
    async with polling(P0, P1) as made:
        made.consumer.produce(P0, 0, 1, 2)
        made.consumer.produce(P1, 0, 1)
        await until(lambda: made.accepted == {P0: [0, 1, 2], P1: [0, 1]})
        assert (made.loop.next_offset(P0), made.loop.next_offset(P1)) == (3, 2)


@pytest.mark.parametrize(
    "error",
    [
        KafkaConnectionError("gone"),
        UnknownError(),
        RuntimeError("the transport is closed"),
        AssertionError(),
        OSError("reset"),
        Unheard("?"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("times", [1, FAILURES_IN_A_ROW, FAILURES_IN_A_ROW + 4])
async def test_after_polls_that_raised_the_records_come_once_and_in_order(error: Exception, times: int) -> None:
    """L: an exception of whatever type ends nothing and skips nothing."""
    async with polling(P0, P1) as made:
        left = [times]

        def fails(asked: set[Partition]) -> Exception | None:
            left[0] -= 1
            return error if left[0] >= 0 else None

        made.consumer.fails = fails
        made.consumer.produce(P0, 0, 1)
        made.consumer.produce(P1, 0)
        await until(lambda: made.accepted == {P0: [0, 1], P1: [0]})
        made.consumer.produce(P0, 2)
        await until(lambda: made.accepted[P0] == [0, 1, 2])
        assert made.loop.unreadable == {}, "it was not the partitions' fault"
        assert made.loop.failing is None


async def test_while_polls_fail_it_is_known_since_when_and_why() -> None:
    """H"""
    async with polling(P0, P1) as made:
        await made.polls()
        worked_at = made.now
        made.now += 60.0
        made.consumer.fails = lambda asked: Unheard("no idea")
        await until(lambda: made.loop.failing is not None)
        made.now += 60.0
        await made.polls(10)
        assert made.loop.failing == "Unheard: no idea"
        assert made.loop.polled_at <= worked_at + 60.0, "a poll that failed is no poll"
        assert made.observer.seen["poll failed"] >= 3
        assert made.pauses >= 3, "it does not spin"
        made.consumer.fails = lambda asked: None
        await until(lambda: made.loop.failing is None)
        assert made.loop.polled_at == made.now


async def test_polls_without_records_count_as_polls() -> None:
    """H: an idle topic is no trouble."""
    async with polling(P0) as made:
        made.now += 100.0
        await until(lambda: made.loop.polled_at == made.now)


async def test_a_batch_that_cannot_be_read_sets_its_partition_aside_and_the_others_go_on() -> None:
    """P, H"""
    async with polling(P0, P1) as made:
        made.consumer.fails = failing_of(P0, PartitionUnreadable(*P0, 1, "its checksum is wrong"))
        made.consumer.produce(P0, 1)
        made.consumer.produce(P1, 0, 1)
        await until(lambda: made.accepted[P1] == [0, 1])
        assert made.accepted[P0] == []
        assert made.loop.unreadable.keys() == {P0}
        assert "offset 1: its checksum is wrong" in made.loop.unreadable[P0]
        assert made.observer.seen[f"{P0} unreadable"] == 1
        assert made.loop.failing is None
        made.consumer.produce(P1, 2)
        await until(lambda: made.accepted[P1] == [0, 1, 2])


async def test_a_partition_that_was_set_aside_is_tried_again_and_read_on_where_it_stood() -> None:
    """L"""
    async with polling(P0, P1) as made:
        made.consumer.produce(P0, 0)
        await until(lambda: made.accepted[P0] == [0])
        made.consumer.fails = failing_of(P0, PartitionUnreadable(*P0, 1, "its checksum is wrong"))
        await until(lambda: P0 in made.loop.unreadable)
        made.consumer.produce(P0, 1, 2)
        made.now += TRY_AGAIN_SECONDS + 1
        await made.polls(6)
        assert P0 in made.loop.unreadable, "it was tried, and failed again"
        made.consumer.fails = lambda asked: None
        await made.polls()
        assert made.accepted[P0] == [0], "not before its time"
        made.now += TRY_AGAIN_SECONDS + 1
        await until(lambda: made.accepted[P0] == [0, 1, 2])
        assert made.loop.unreadable == {}
        assert made.observer.seen[f"{P0} unreadable"] == 0


async def test_a_partition_counts_as_unreadable_until_a_record_of_it_was_read() -> None:
    """H: that it was resumed says nothing yet."""
    async with polling(P0, P1) as made:
        made.consumer.fails = failing_of(P0, PartitionUnreadable(*P0, 0, "its checksum is wrong"))
        await until(lambda: P0 in made.loop.unreadable)
        made.consumer.fails = lambda asked: None
        made.now += TRY_AGAIN_SECONDS + 1
        await until(lambda: TopicPartition(*P0) not in made.consumer.paused_places)
        await made.polls()
        assert P0 in made.loop.unreadable
        made.consumer.produce(P0, 0)
        await until(lambda: made.loop.unreadable == {})


@pytest.mark.parametrize("error", [Unheard("no idea"), RuntimeError("?"), AssertionError()])
async def test_the_one_partition_whose_polls_raise_is_found_and_set_aside(error: Exception) -> None:
    """P, H: by an error that does not name it."""
    async with polling(P0, P1) as made:
        made.consumer.produce(P0, 0)
        await until(lambda: made.accepted[P0] == [0])
        made.consumer.fails = failing_of(P0, error)
        made.consumer.produce(P1, 0, 1)
        await until(lambda: made.accepted[P1] == [0, 1])
        await until(lambda: P0 in made.loop.unreadable)
        assert type(error).__name__ in made.loop.unreadable[P0]
        assert "offset 1" in made.loop.unreadable[P0]
        assert P1 not in made.loop.unreadable
        made.consumer.produce(P1, 2)
        await until(lambda: made.accepted[P1] == [0, 1, 2])
        assert made.loop.failing is None
        made.consumer.fails = lambda asked: None
        made.consumer.produce(P0, 1)
        made.now += TRY_AGAIN_SECONDS + 1
        await until(lambda: made.accepted[P0] == [0, 1])
        assert made.loop.unreadable == {}


async def test_where_every_partition_fails_alone_none_is_set_aside() -> None:
    """H: then it is the client, or Kafka."""
    async with polling(P0, P1) as made:
        made.consumer.fails = lambda asked: Unheard("no idea")
        await until(lambda: made.observer.seen["poll failed"] > FAILURES_IN_A_ROW + 2)
        assert made.loop.unreadable == {}
        assert made.loop.failing == "Unheard: no idea"


@pytest.mark.parametrize("failures", [0, FAILURES_IN_A_ROW])
async def test_a_consumer_that_is_stopped_ends_the_loop(failures: int) -> None:
    made = Polling(P0, P1)
    left = [failures]

    def fails(asked: set[Partition]) -> Exception | None:
        left[0] -= 1
        return Unheard() if left[0] >= 0 else ConsumerStoppedError()

    made.consumer.fails = fails
    async with asyncio.timeout(5.0):
        await made.loop.run()


@pytest.mark.parametrize("failures", [0, FAILURES_IN_A_ROW])
async def test_an_error_after_which_no_poll_can_succeed_is_raised(failures: int) -> None:
    """H: a loop that polled on would be alive and idle. Also while each partition is polled on its own."""
    made = Polling(P0, P1, is_fatal=lambda error: isinstance(error, ClientBroken))
    left = [failures]

    def fails(asked: set[Partition]) -> Exception | None:
        left[0] -= 1
        return Unheard() if left[0] >= 0 else ClientBroken("its fetch task has ended")

    made.consumer.fails = fails
    async with asyncio.timeout(5.0):
        with pytest.raises(ClientBroken):
            await made.loop.run()


async def test_a_loop_that_is_cancelled_ends() -> None:
    made = Polling(P0)
    running = asyncio.create_task(made.loop.run())
    await made.polls()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_records_of_a_partition_that_is_not_read_are_dropped_and_read_again_when_it_is() -> None:
    """L"""
    async with polling(P0) as made:
        made.loop.forget(P0)
        made.consumer.produce(P0, 0, 1)
        await until(lambda: made.consumer.positions[TopicPartition(*P0)] == 2)
        await made.polls()
        assert made.accepted[P0] == []
        assert made.loop.next_offset(P0) is None
        made.loop.start(P0, 0)
        await until(lambda: made.accepted[P0] == [0, 1])


async def test_a_partition_that_is_held_gives_nothing_until_it_is_released() -> None:
    """P: and another goes on."""
    async with polling(P0, P1) as made:
        made.loop.hold(P0)
        made.consumer.produce(P0, 0)
        made.consumer.produce(P1, 0)
        await until(lambda: made.accepted[P1] == [0])
        await made.polls()
        assert made.accepted[P0] == []
        made.loop.release(P0)
        await until(lambda: made.accepted[P0] == [0])


async def test_a_partition_that_is_held_is_not_resumed_by_trying_it_again() -> None:
    async with polling(P0, P1) as made:
        made.consumer.fails = failing_of(P0, PartitionUnreadable(*P0, 0, "its checksum is wrong"))
        await until(lambda: P0 in made.loop.unreadable)
        made.loop.hold(P0)
        made.consumer.fails = lambda asked: None
        made.consumer.produce(P0, 0)
        made.now += TRY_AGAIN_SECONDS + 1
        await made.polls(5)
        assert made.accepted[P0] == []


async def test_releasing_a_partition_that_cannot_be_read_does_not_resume_it() -> None:
    """P: the others would be polled in vain until it is set aside again."""
    async with polling(P0, P1) as made:
        made.consumer.fails = failing_of(P0, PartitionUnreadable(*P0, 0, "its checksum is wrong"))
        await until(lambda: P0 in made.loop.unreadable)
        made.loop.hold(P0)
        made.loop.release(P0)
        assert TopicPartition(*P0) in made.consumer.paused_places


async def test_a_partition_that_went_elsewhere_is_neither_sought_nor_paused() -> None:
    """aiokafka raises for a partition that is not assigned, and a loop that raises ends the process."""
    async with polling(P0, P1) as made:
        del made.consumer.logs[TopicPartition(*P0)]
        made.loop.start(P0, 5)
        made.loop.hold(P0)
        made.loop.release(P0)
        made.loop.forget(P0)
        made.consumer.produce(P1, 0)
        await until(lambda: made.accepted[P1] == [0])


async def test_a_partition_that_went_elsewhere_is_not_unreadable_any_more() -> None:
    """H"""
    async with polling(P0, P1) as made:
        made.consumer.fails = failing_of(P0, PartitionUnreadable(*P0, 0, "its checksum is wrong"))
        await until(lambda: P0 in made.loop.unreadable)
        made.loop.forget(P0)
        assert made.loop.unreadable == {}
        assert made.observer.seen[f"{P0} unreadable"] == 0


async def test_what_stands_behind_a_gap_is_read_a_second_time_before_it_is_handed_on() -> None:
    """L, C"""
    async with polling(P0) as made:
        made.consumer.produce(P0, 0, 3, 4)
        await until(lambda: made.accepted[P0] == [0, 3, 4])
        assert made.consumer.seeks == [(P0, 0), (P0, 1)]


async def test_a_log_that_went_back_makes_its_partition_be_refused_and_nothing_of_it_is_handed_on() -> None:
    """D, P: its offsets would be taken for ones that are done."""
    async with polling(P0, P1) as made:
        made.consumer.produce(P0, 0, 1, 2)
        await until(lambda: made.accepted[P0] == [0, 1, 2])
        made.consumer.logs[TopicPartition(*P0)] = [FakeRecord(*P0, 1, b"s1", b"{}")]
        made.consumer.positions[TopicPartition(*P0)] = 0
        await until(lambda: bool(made.refused))
        ((partition, error),) = made.refused
        assert partition == P0
        assert isinstance(error, LogCut)
        made.consumer.produce(P1, 0)
        await until(lambda: made.accepted[P1] == [0])
        assert made.accepted[P0] == [0, 1, 2]


async def test_records_that_are_not_accepted_are_not_skipped() -> None:
    """L: the partition is refused, and read again when it is prepared anew; P: the other goes on."""
    async with polling(P0, P1) as made:
        made.accept_errors.append(UnknownError("out of order"))
        made.consumer.produce(P0, 0, 1)
        await until(lambda: made.refused != [])
        made.consumer.produce(P1, 0)
        await until(lambda: made.accepted[P1] == [0])
        [(partition, error)] = made.refused
        assert partition == P0
        assert isinstance(error, UnknownError)
