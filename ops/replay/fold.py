"""How reply events take a session on. No I/O, no clock; `schemas.fold.evolve` decides."""

from collections.abc import Iterable, Iterator
from itertools import chain

from schemas.errors import SequenceGap
from schemas.fold import evolve
from schemas.replies import ReplyEvent, SessionDeleted
from schemas.session import EARLIER_IDS_MS, ids_pushed_out
from store.redis.working_copy import Folded, Step

Event = tuple[ReplyEvent, bytes]
"""An event and the bytes of its record."""


def fold(before: Folded, events: Iterable[Event]) -> tuple[Step | None, list[bytes]]:
    """`before` taken on by the events of its session, and those that follow nothing yet. None: nothing new.

    Events may come again and in any order: since partitions were added, a session's lie in several of them.
    """
    session = before.session
    event_id, values, anew = before.event_id, list[bytes](), False
    pushed_out: list[tuple[str, int]] = []
    held: dict[tuple[int, int], Event] = {}
    for event, value in chain(events, _again(held)):
        try:
            after = evolve(session, event)
        except SequenceGap:
            held[event.epoch, event.seq] = (event, value)
            continue
        if after is session:
            continue
        if event.seq == 1 or isinstance(event, SessionDeleted):
            values.clear()
            pushed_out.clear()
            anew = True
        values.append(value)
        pushed_out += ids_pushed_out(session, after)
        session, event_id = after, event.id
    if pushed_out and session is not None:
        oldest = session.updated_ms() - EARLIER_IDS_MS
        pushed_out = [each for each in pushed_out if each[1] >= oldest]
    step = Step(before, Folded(session, event_id), values, anew, pushed_out) if session is not before.session else None
    return step, [held[place][1] for place in sorted(held)]


def _again(held: dict[tuple[int, int], Event]) -> Iterator[Event]:
    """What is held once all others were taken, in order."""
    for place in sorted(held):
        yield held.pop(place)
