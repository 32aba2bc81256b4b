"""The reader of the reply topic: nothing that a record, a subscriber, a store or a broker does ends it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiokafka.errors import ConsumerStoppedError, KafkaConnectionError
from structlog.typing import EventDict

from ingress.fetch_loop import LoopTimes
from ingress.topic_reader import OPENING_ATTEMPTS, STALLED_SECONDS, Deliver, KeyAndValue, ReaderStalled, TopicReader
from schemas.errors import NewerSchema
from store.errors import StoreUnavailable
from tests.polling import eventually
from tests.unit.ingress.topic import TOPIC, Topic

QUICK = LoopTimes(poll=0.02, look=0.02, patience=0.2, connect=0.5, first_wait=0.001, longest_wait=0.01, remind=60.0)


class Unforeseen(Exception):
    """A type that the product does not know."""


ANY_ERRORS = [
    Unforeseen("unforeseen"),
    RuntimeError("unable to perform operation on <TCPTransport>"),
    TypeError("stale metadata"),
    AssertionError(),
    ConsumerStoppedError(),
    KafkaConnectionError(),
    asyncio.CancelledError(),
]


@dataclass
class Reading:
    """A reader at work, and what came of it."""

    topic: Topic
    delivered: list[KeyAndValue] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    replaced: int = 0
    ahead_seconds: float = 0.0
    """By how much the reader's clock is ahead of the real one."""
    reader: TopicReader = field(init=False)

    def record_refused(self, topic: str, reason: str) -> None:
        self.refused.append((topic, reason))

    def reader_replaced(self, topic: str) -> None:
        self.replaced += 1

    def take(self, key: bytes | None, value: bytes | None) -> None:
        self.delivered.append((key, value))

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_seconds

    @property
    def values(self) -> list[bytes | None]:
        return [value for _, value in self.delivered]

    async def until_delivered(self, *values: bytes | None) -> None:
        """Exactly these, in this order."""

        async def came() -> bool:
            return len(self.delivered) >= len(values)

        await eventually(came, f"{values} are delivered", 5.0)
        assert self.values == list(values)


async def as_they_are(records: Sequence[KeyAndValue]) -> list[bytes | None]:
    return [value and value.removeprefix(b"\x01sealed ") for _, value in records]


@asynccontextmanager
async def reading(
    topic: Topic,
    *,
    deliver: Callable[[Reading], Sequence[Deliver]] = lambda at_work: [at_work.take],
    opened: Callable[[Sequence[KeyAndValue]], object] = as_they_are,
) -> AsyncIterator[Reading]:
    at_work = Reading(topic)
    at_work.reader = TopicReader(
        topic.consumer,
        TOPIC,
        opened,  # type: ignore[arg-type]  # what a test makes of it
        deliver(at_work),
        log_ends=topic.ends,
        observer=at_work,
        times=QUICK,
        clock=at_work.now,
    )
    await at_work.reader.start(topic.partitions)
    try:
        yield at_work
        assert at_work.reader.running
    finally:
        await at_work.reader.stop()
    assert topic.open_consumers == 0


async def happened(condition: Callable[[], bool], what: str) -> None:
    async def check() -> bool:
        return condition()

    await eventually(check, what, 5.0)


def events(logs: list[EventDict], name: str) -> list[EventDict]:
    return [entry for entry in logs if entry["event"] == name]


async def test_only_what_is_published_after_the_start_is_delivered() -> None:
    topic = Topic()
    topic.write(b"before")
    async with reading(topic) as at_work:
        topic.write(b"after")
        await at_work.until_delivered(b"after")


async def test_a_partition_that_is_added_is_read_from_its_beginning() -> None:
    topic = Topic()
    async with reading(topic) as at_work:
        topic.write(b"first", partition=1)
        await at_work.reader.extend(2)
        await at_work.until_delivered(b"first")


async def test_what_cannot_be_opened_yet_waits_and_keeps_its_order(logs: list[EventDict]) -> None:
    topic, away = Topic(), 5

    async def opened(records: Sequence[KeyAndValue]) -> list[bytes | None]:
        nonlocal away
        if away:
            away -= 1
            raise StoreUnavailable("Redis is away")
        return await as_they_are(records)

    async with reading(topic, opened=opened) as at_work:
        topic.write(b"\x01sealed 1")
        topic.write(b"plain")
        topic.write(None, None)
        await at_work.until_delivered(b"1", b"plain", None)
    assert len(events(logs, "reader_waits")) == len(events(logs, "reader_goes_on")) == 1


async def test_a_record_that_can_never_be_opened_costs_only_itself(logs: list[EventDict]) -> None:
    """P"""
    topic, attempts = Topic(), 0

    async def opened(records: Sequence[KeyAndValue]) -> list[bytes | None]:
        nonlocal attempts
        if any(value == b"\x01sealed odd" for _, value in records):
            attempts += 1
            raise Unforeseen("odd")
        return await as_they_are(records)

    async with reading(topic, opened=opened) as at_work:
        for value in (b"\x01sealed 1", b"\x01sealed odd", b"\x01sealed 2"):
            topic.write(value)
        await at_work.until_delivered(b"1", None, b"2")
    assert attempts >= OPENING_ATTEMPTS
    assert at_work.refused == [(TOPIC, "not_opened")]
    (entry,) = events(logs, "record_refused")
    assert (entry["partition"], entry["offset"]) == (0, 1)


@pytest.mark.parametrize("error", ANY_ERRORS, ids=lambda error: type(error).__name__)
async def test_a_record_whose_delivery_raises_costs_only_itself(error: BaseException, logs: list[EventDict]) -> None:
    """P"""

    def fails(key: bytes | None, value: bytes | None) -> None:
        if value == b"odd":
            raise error

    topic = Topic()
    async with reading(topic, deliver=lambda at_work: [fails, at_work.take]) as at_work:
        for value in (b"1", b"odd", b"2"):
            topic.write(value, b"session-1")
        await at_work.until_delivered(b"1", b"odd", b"2")
        assert len(topic.made) == 1
    assert at_work.refused == [(TOPIC, "internal_error")]
    (entry,) = events(logs, "record_refused")
    assert (entry["topic"], entry["partition"], entry["offset"], entry["key"]) == (TOPIC, 0, 1, "session-1")


async def test_a_newer_schema_has_a_reason_of_its_own() -> None:
    def newer(key: bytes | None, value: bytes | None) -> None:
        raise NewerSchema("version 99")

    topic = Topic()
    async with reading(topic, deliver=lambda at_work: [newer, at_work.take]) as at_work:
        topic.write(b"1")
        await at_work.until_delivered(b"1")
    assert at_work.refused == [(TOPIC, "newer_schema")]


@pytest.mark.parametrize("call", ["getmany", "start", "assign", "seek", "stop"])
@pytest.mark.parametrize("error", ANY_ERRORS, ids=lambda error: type(error).__name__)
async def test_after_any_error_everything_is_delivered_once_by_a_fresh_consumer(
    call: str, error: BaseException, logs: list[EventDict]
) -> None:
    topic = Topic(partitions=2)
    async with reading(topic) as at_work:
        topic.write(b"1")
        topic.write(b"2", partition=1)
        await happened(lambda: sorted(filter(None, at_work.values)) == [b"1", b"2"], "the first ones are delivered")
        # What the failed call had gathered already must come again, and nothing else.
        topic.logs[0].append(type(topic.logs[0][0])(0, 1, b"k", b"3"))
        if call != "getmany":
            topic.fail(call, error)
        topic.fail("getmany", error)
        await happened(lambda: len(at_work.delivered) > 2, "the next one is delivered")
        topic.write(b"4", partition=1)
        await happened(lambda: len(at_work.delivered) > 3, "the one after it is delivered")
        assert at_work.values[2:] == [b"3", b"4"]
        assert topic.open_consumers == 1
        await happened(lambda: bool(events(logs, "reader_goes_on")), "the end of the trouble is logged")
    assert at_work.replaced >= 1
    assert len(events(logs, "reader_waits")) == len(events(logs, "reader_goes_on")) == 1


async def test_a_consumer_that_fails_again_and_again_is_logged_once_and_left_alone_for_longer_and_longer(
    logs: list[EventDict],
) -> None:
    topic = Topic()
    async with reading(topic) as at_work:
        topic.fail("start", *[Unforeseen(str(n)) for n in range(20)])
        topic.fail("getmany", Unforeseen("first"))
        topic.write(b"1")
        await at_work.until_delivered(b"1")
        assert at_work.replaced == 21
        await happened(lambda: bool(events(logs, "reader_goes_on")), "the end of the trouble is logged")
    (entry,) = events(logs, "reader_waits")
    assert "Unforeseen: first" in entry["error"]


async def test_a_consumer_that_silently_gives_nothing_is_replaced() -> None:
    topic = Topic(mute={0})
    async with reading(topic) as at_work:
        topic.write(b"1")
        await happened(lambda: at_work.replaced > 0, "the consumer is replaced")
        topic.mute.clear()
        await at_work.until_delivered(b"1")


async def test_a_consumer_that_tells_neither_records_nor_the_log_s_end_is_replaced() -> None:
    topic = Topic()
    async with reading(topic) as at_work:
        topic.deaf = True
        await happened(lambda: at_work.replaced > 0, "the consumer is replaced")
        topic.deaf = False
        topic.write(b"1")
        await at_work.until_delivered(b"1")


@pytest.mark.parametrize("call", ["end_offsets", "position"])
async def test_a_look_at_the_log_s_end_that_fails_ends_nothing(call: str) -> None:
    topic = Topic()
    async with reading(topic) as at_work:
        topic.fail(call, *ANY_ERRORS)
        await happened(lambda: not topic.failures[call], "all looks have failed")
        topic.write(b"1")
        await at_work.until_delivered(b"1")
        assert at_work.replaced == 0


async def test_a_quiet_topic_is_ready_and_its_consumer_stays() -> None:
    """Behind the last record there may be transaction markers, which no consumer returns."""
    topic = Topic()
    async with reading(topic) as at_work:
        topic.write(b"1")
        topic.markers[0] = 1
        await at_work.until_delivered(b"1")
        looked_until = asyncio.get_running_loop().time() + 2 * QUICK.patience
        await happened(lambda: asyncio.get_running_loop().time() > looked_until, "time passes")
        await at_work.reader.check()
        assert at_work.replaced == 0


async def test_unread_records_of_one_partition_make_the_reader_not_ready_after_a_while_and_name_the_topic() -> None:
    """H"""
    topic = Topic(partitions=2, mute={1})
    async with reading(topic) as at_work:
        topic.write(b"1", partition=1)
        topic.deaf = True
        await at_work.reader.check()
        at_work.ahead_seconds = STALLED_SECONDS + 1
        topic.write(b"2")
        await at_work.until_delivered(b"2")
        with pytest.raises(ReaderStalled, match=r"1 records of t \(partitions 1\) wait"):
            await at_work.reader.check()
        topic.deaf = False
        topic.mute.clear()
        await at_work.until_delivered(b"2", b"1")
        await at_work.reader.check()


async def test_while_it_cannot_be_learnt_whether_records_wait_the_reader_is_not_ready() -> None:
    """H"""
    topic = Topic()
    async with reading(topic) as at_work:
        topic.deaf = True
        at_work.ahead_seconds = STALLED_SECONDS + 1
        topic.fail("log_ends", Unforeseen("no route"))
        with pytest.raises(ReaderStalled, match="t is not read"):
            await at_work.reader.check()
        # Nothing waits, so traffic may come.
        await at_work.reader.check()


async def test_a_reader_that_cannot_start_says_so_and_leaves_no_consumer_behind() -> None:
    topic = Topic()
    topic.fail("end_offsets", KafkaConnectionError())
    at_work = Reading(topic)
    reader = TopicReader(
        topic.consumer, TOPIC, as_they_are, [at_work.take], log_ends=topic.ends, observer=at_work, times=QUICK
    )
    with pytest.raises(KafkaConnectionError):
        await reader.start(1)
    assert not reader.running
    assert topic.open_consumers == 0


async def test_records_whose_keys_cannot_be_had_are_unread_until_they_are_delivered() -> None:
    """H"""
    topic, keys = Topic(), asyncio.Event()

    async def opened(records: Sequence[KeyAndValue]) -> list[bytes | None]:
        if not keys.is_set():
            raise StoreUnavailable("Redis is away")
        return await as_they_are(records)

    async with reading(topic, opened=opened) as at_work:
        topic.write(b"\x01sealed 1")
        at_work.ahead_seconds = STALLED_SECONDS + 1
        looks = topic.looks
        await happened(lambda: topic.looks > looks + 3, "the log's end is looked at")
        with pytest.raises(ReaderStalled, match="1 records of t"):
            await at_work.reader.check()
        keys.set()
        await at_work.until_delivered(b"1")
        await at_work.reader.check()
