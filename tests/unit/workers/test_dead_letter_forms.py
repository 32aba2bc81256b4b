"""A dead letter always finds a form that the topic takes, and shows no more than it may (L)."""

from hashlib import sha256

import pytest

from schemas.headers import header
from schemas.publishing import BrokerUnavailable, Record, RecordTooLarge
from store.protocol import Fence
from tests.unit.workers.fakes import TOPICS, FakePublisher, FakeRecord, Worker, inbound
from workers.dead_letters import MAX_ERROR_BYTES, MAX_KEY_BYTES, DeadLetters
from workers.places import own_place
from workers.records import FIRST_BYTES, Assignment, KafkaRecord, Partition, Taken, UnreadableRecord, take

WHERE = Partition(TOPICS.inbound, 3)


def taken(record: KafkaRecord) -> Taken:
    return take(record, Assignment(WHERE, 1, Fence("partition", 1), 0, WHERE.topic), 0.0)


def plain(
    key: bytes | None = b"s1", value: bytes | None = b'{"text": "Hello"}', *headers: tuple[str, bytes]
) -> FakeRecord:
    return FakeRecord(*WHERE, 7, key, value, list(headers))


UNREADABLE = UnreadableRecord(
    topic=WHERE.topic,
    partition=WHERE.partition,
    offset=7,
    last_offset=19,
    reason="too_large_unpacked",
    error="a batch of 900 bytes unpacks to more than 32 MiB",
    size=900,
    digest="ab" * 32,
    first_bytes=b"CANARY",
    timestamp=1,
)


class Letters:
    """Dead letters over a topic that is too small for the next ones."""

    def __init__(self, *too_large: bool, shows_content: bool = True) -> None:
        self.publisher = FakePublisher()
        self.publisher.fail(TOPICS.dlq, *(RecordTooLarge("over the limit") if each else None for each in too_large))
        self.letters = DeadLetters(self.publisher, TOPICS.dlq, shows_content=shows_content)

    async def write(self, record: KafkaRecord, error: str = "why") -> Record:
        await self.letters.write(taken(record), reason="bad_json", error=error, attempts=2, failed_at="now")
        (letter,) = self.publisher.of(TOPICS.dlq)
        return letter


ABOUT = [
    ("dlq.reason", b"bad_json"),
    ("dlq.error", b"why"),
    ("dlq.attempts", b"2"),
    ("dlq.topic", WHERE.topic.encode()),
    ("dlq.partition", b"3"),
    ("dlq.offset", b"7"),
    ("dlq.failed_at", b"now"),
]


async def test_a_record_is_kept_as_it_came_with_where_it_stood_behind_its_own_headers() -> None:
    record = plain(b"s1", b"{", ("ce_id", b"m1"), ("ce_id", b"twice"))
    letter = await Letters().write(record)
    assert (letter.key, letter.value, letter.seal_for) == (b"s1", b"{", "s1")
    assert letter.headers == [*record.headers, *ABOUT]


@pytest.mark.parametrize(("key", "value", "written"), [(None, None, b""), (b"s1", None, None), (None, b"{", b"{")])
async def test_a_record_without_key_and_value_is_written_with_an_empty_value(
    key: bytes | None, value: bytes | None, written: bytes | None
) -> None:
    """The client sends no record that has neither."""
    letter = await Letters().write(plain(key, value))
    assert (letter.key, letter.value) == (key, written)


async def test_what_the_topic_does_not_take_goes_there_without_value_and_headers() -> None:
    """L"""
    value = b'{"text": "' + b"x" * 2_000 + b'"}'
    letter = await Letters(True).write(plain(b"s1", value, ("big", b"h" * 9_000), ("ce_id", b"m1")))
    assert (letter.key, letter.value) == (b"s1", None)
    assert letter.headers == [
        *ABOUT,
        ("dlq.size", str(len(value)).encode()),
        ("dlq.digest", sha256(value).hexdigest().encode()),
        ("dlq.first_bytes", value[:FIRST_BYTES]),
        ("ce_id", b"m1"),
    ]
    assert letter.seal_for is None, "there is no content to seal"


async def test_a_letter_without_key_and_value_has_an_empty_value() -> None:
    letter = await Letters(True).write(plain(None, b"x" * 2_000))
    assert (letter.key, letter.value) == (None, b"")


async def test_a_topic_that_does_not_even_take_the_last_resort_is_waited_for() -> None:
    """L: the offset is not done, and the message says what to change."""
    letters = Letters(True, True)
    with pytest.raises(BrokerUnavailable, match=r"max\.message\.bytes"):
        await letters.write(plain())
    assert letters.publisher.records == []


@pytest.mark.parametrize("size", [MAX_KEY_BYTES, MAX_KEY_BYTES + 1, 900_000])
async def test_a_key_that_is_too_long_is_left_out_of_the_last_resort(size: int) -> None:
    """L: it may be what made the record too large."""
    letter = await Letters(True).write(plain(b"k" * size))
    kept = size <= MAX_KEY_BYTES
    assert (letter.key, letter.value) == ((b"k" * size, None) if kept else (None, b""))


@pytest.mark.parametrize("size", [MAX_KEY_BYTES, MAX_KEY_BYTES + 1, 900_000])
async def test_an_id_that_is_too_long_is_left_out_of_the_last_resort(size: int) -> None:
    letter = await Letters(True).write(plain(b"s1", b"{", ("ce_id", b"i" * size)))
    assert (header(letter.headers, "ce_id") is not None) == (size <= MAX_KEY_BYTES)
    assert sum(len(value) for _, value in letter.headers) < 2_000


@pytest.mark.parametrize("record", [plain(b"s1", b"CANARY" * 500), UNREADABLE], ids=["a record", "a batch"])
async def test_where_content_must_be_sealed_the_last_resort_shows_none(record: KafkaRecord) -> None:
    """X"""
    letter = await Letters(not isinstance(record, UnreadableRecord), shows_content=False).write(record)
    assert header(letter.headers, "dlq.first_bytes") is None
    assert not any(b"CANARY" in value for _, value in letter.headers)
    assert header(letter.headers, "dlq.size") is not None
    assert header(letter.headers, "dlq.digest") is not None


async def test_a_batch_that_was_not_unpacked_is_written_with_its_span_and_without_its_value() -> None:
    letter = await Letters().write(UNREADABLE)
    assert (letter.key, letter.value) == (None, b"")
    assert letter.headers == [
        *ABOUT,
        ("dlq.last_offset", b"19"),
        ("dlq.size", b"900"),
        ("dlq.digest", b"ab" * 32),
        ("dlq.first_bytes", b"CANARY"),
    ]


async def test_a_batch_of_one_record_has_no_span() -> None:
    single = UnreadableRecord(**{**vars(UNREADABLE), "last_offset": 7})
    assert header((await Letters().write(single)).headers, "dlq.last_offset") is None


async def test_a_batch_that_was_not_unpacked_is_one_dead_letter_and_no_turn() -> None:
    """L, P: its partition goes on behind it."""
    worker = Worker()
    await worker.resilient.run(taken(UNREADABLE), own_place())
    (letter,) = worker.publisher.of(TOPICS.dlq)
    assert header(letter.headers, "dlq.reason") == b"too_large_unpacked"
    assert worker.publisher.replies == []
    await worker.run(inbound("s1", 20, id="m1", text="Behind it"))
    assert worker.publisher.seqs == [1]


@pytest.mark.parametrize("error", ["x" * 5_000, "é" * 5_000, "x" + "é" * 5_000])
async def test_an_error_is_cut_where_a_character_ends(error: str) -> None:
    told = header((await Letters().write(plain(), error)).headers, "dlq.error")
    assert told is not None
    assert len(told) <= MAX_ERROR_BYTES
    assert error.startswith(told.decode())
