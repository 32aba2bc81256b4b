"""Marks say up to where the store has what the reply topic has."""

from schemas.publishing import Position
from tests.unit.workers.fakes import TOPICS
from workers.marks import ReplyMarks
from workers.records import Partition


def test_a_mark_is_the_offset_after_the_newest_reply_and_is_taken_once() -> None:
    marks = ReplyMarks(TOPICS.inbound)
    for offset in (4, 6, 5):
        marks.published(Position(TOPICS.replies, 1, offset))
    owned = [Partition(TOPICS.inbound, 1)]
    assert marks.take(owned, str) == {f"{TOPICS.replies}:1": 7}
    assert marks.take(owned, str) == {}


def test_only_owned_homes_have_marks() -> None:
    """R: a reply beyond a loss that the home's owner has not repaired yet must not hide it."""
    marks = ReplyMarks(TOPICS.inbound)
    for partition in (1, 2, 3):
        marks.published(Position(TOPICS.replies, partition, 0))
    owned = [Partition(TOPICS.inbound, 2), Partition("another-system", 3)]
    assert marks.take(owned, str) == {f"{TOPICS.replies}:2": 1}
