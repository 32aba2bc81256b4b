"""A cursor hands out every record once and in order, and passes only gaps that were there on two looks (L, C)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.workers.fakes import TOPICS, FakeRecord
from workers.cursors import Cursor, LogWentBack, Passed
from workers.records import KafkaRecord, UnreadableRecord, offset_after


def record(offset: int) -> FakeRecord:
    return FakeRecord(TOPICS.inbound, 0, offset, b"s1", b"{}")


def unreadable(offset: int, last_offset: int) -> UnreadableRecord:
    return UnreadableRecord(
        topic=TOPICS.inbound,
        partition=0,
        offset=offset,
        last_offset=last_offset,
        reason="too_large_unpacked",
        error="too large",
        size=1,
        digest="",
        first_bytes=b"",
        timestamp=0,
    )


def records(*offsets: int) -> list[KafkaRecord]:
    return [record(offset) for offset in offsets]


def offsets(passed: Passed) -> list[int]:
    return [each.offset for each in passed.records]


def test_records_that_follow_each_other_pass_at_once() -> None:
    cursor = Cursor(5)
    assert offsets(cursor.take(records(5, 6, 7))) == [5, 6, 7]
    assert offsets(cursor.take(records(8))) == [8]
    assert cursor.next == 9


def test_what_stands_behind_a_gap_is_read_again_and_passes_when_the_gap_is_still_there() -> None:
    cursor = Cursor(5)
    first = cursor.take(records(5, 8, 9))
    assert (offsets(first), first.read_again_from, cursor.next) == ([5], 6, 6)
    second = cursor.take(records(8, 9, 10))
    assert (offsets(second), second.read_again_from, second.appeared, cursor.next) == ([8, 9, 10], None, 0, 11)


def test_a_record_that_the_first_look_skipped_is_handed_out_by_the_second() -> None:
    """L"""
    cursor = Cursor(5)
    cursor.take(records(5, 8))
    second = cursor.take(records(6, 7, 8))
    assert (offsets(second), second.read_again_from, second.appeared) == ([6, 7, 8], None, 2)


def test_a_second_look_that_skips_another_record_is_not_believed() -> None:
    """L: each look had a gap of its own, and both were the client's fault."""
    cursor = Cursor(5)
    cursor.take(records(6, 7))
    second = cursor.take(records(5, 7))
    assert (offsets(second), second.read_again_from, second.appeared) == ([5], 6, 1)
    assert offsets(cursor.take(records(6, 7))) == [6, 7]


def test_a_gap_behind_the_end_of_the_first_look_is_looked_at_twice_as_well() -> None:
    """L"""
    cursor = Cursor(5)
    cursor.take(records(6, 7))
    second = cursor.take(records(6, 7, 10))
    assert (offsets(second), second.read_again_from) == ([6, 7], 8)
    assert offsets(cursor.take(records(8, 10))) == [8, 10], "9 was missing in both looks, 8 in one"


def test_an_unreadable_batch_takes_all_of_its_offsets() -> None:
    """C: what follows it is no gap, and its offsets are not read again."""
    cursor = Cursor(5)
    passed = cursor.take([record(5), unreadable(6, 9), record(10)])
    assert (offsets(passed), passed.read_again_from, cursor.next) == ([5, 6, 10], None, 11)


def test_a_gap_behind_an_unreadable_batch_is_looked_at_twice() -> None:
    cursor = Cursor(5)
    first = cursor.take([unreadable(5, 9), record(12)])
    assert (offsets(first), first.read_again_from) == ([5], 10)
    assert offsets(cursor.take(records(12))) == [12]


def test_a_log_that_went_back_is_told() -> None:
    cursor = Cursor(5)
    cursor.take(records(5, 6))
    with pytest.raises(LogWentBack) as raised:
        cursor.take(records(3, 4))
    assert (raised.value.expected, raised.value.found) == (7, 3)
    assert cursor.next == 7, "nothing was taken"


@dataclass
class FaultyClient:
    """Reads a log, and skips some records of it on some looks."""

    log: Sequence[KafkaRecord]
    position: int
    seeks: int = 0
    missed: Counter[int] = field(default_factory=Counter)
    """Per offset, on how many looks it was passed and nothing was handed out for it."""

    def read(self, most: int, skipped: set[int]) -> list[KafkaRecord]:
        """The next `most` records of the log but the `skipped` ones; the position is behind them all."""
        ahead = [each for each in self.log if each.offset >= self.position][:most]
        read = [each for each in ahead if each.offset not in skipped]
        until = offset_after(ahead[-1])
        covered = {offset for each in read for offset in range(each.offset, offset_after(each))}
        self.missed.update(set(range(self.position, until)) - covered)
        self.position = until
        return read

    def seek(self, offset: int) -> None:
        self.position = offset
        self.seeks += 1


@st.composite
def logs(draw: st.DrawFn) -> list[KafkaRecord]:
    """A log from offset 3 on, with gaps and with batches that can't be read."""
    log: list[KafkaRecord] = []
    offset = 3
    for gap, span in draw(st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 4]), st.integers(0, 3)), min_size=1)):
        offset += gap
        log.append(unreadable(offset, offset + span) if span > 1 else record(offset))
        offset = offset_after(log[-1])
    return log


@settings(max_examples=300, deadline=None)
@given(logs(), st.data())
def test_whatever_a_client_skips_every_record_comes_once_and_in_order(
    log: list[KafkaRecord], data: st.DataObject
) -> None:
    """L, C: a record that is skipped on one look is found on another; nothing else than a gap is passed."""
    last = log[-1].offset
    faults = data.draw(st.lists(st.sampled_from(log), max_size=10))
    left = Counter(each.offset for each in faults if each.offset != last)
    once = {offset for offset, count in left.items() if count == 1}
    client, cursor = FaultyClient(log, 3), Cursor(3)
    handed: list[int] = []
    while cursor.next <= last:
        skipped = {offset for offset, count in left.items() if count and data.draw(st.booleans())}
        position = client.position
        read = client.read(data.draw(st.integers(1, len(log))), skipped)
        left.subtract(offset for offset in skipped if position <= offset < client.position)
        if not read:
            continue
        passed = cursor.take(read)
        handed += offsets(passed)
        if passed.read_again_from is not None:
            assert passed.read_again_from == cursor.next
            client.seek(cursor.next)
    assert handed == sorted(set(handed))
    taken = {offset for each in log if each.offset in handed for offset in range(each.offset, offset_after(each))}
    for offset in range(3, cursor.next):
        assert offset in taken or client.missed[offset] >= 2, f"{offset} was passed after one look"
    assert once <= set(handed), "a record that was skipped once is lost"
    assert set(handed) <= {each.offset for each in log}


@settings(max_examples=100, deadline=None)
@given(logs(), st.data())
def test_a_client_without_faults_reads_a_gap_twice_and_nothing_more(
    log: list[KafkaRecord], data: st.DataObject
) -> None:
    client, cursor = FaultyClient(log, 3), Cursor(3)
    handed: list[int] = []
    while cursor.next <= log[-1].offset:
        passed = cursor.take(client.read(data.draw(st.integers(1, len(log))), set()))
        assert passed.appeared == 0
        handed += offsets(passed)
        if passed.read_again_from is not None:
            client.seek(passed.read_again_from)
    assert handed == [each.offset for each in log]
    begins = [3, *(offset_after(each) for each in log)]
    assert client.seeks <= sum(each.offset > begin for begin, each in zip(begins, log, strict=False))


def test_a_gap_may_be_as_large_as_offsets_are() -> None:
    """P: looking through each offset of it would stop the event loop."""
    far = record(2**62)
    cursor = Cursor(0)
    assert cursor.take([far]).read_again_from == 0
    assert list(cursor.take([far]).records) == [far]
