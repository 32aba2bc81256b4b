"""How reply events take a session on. No I/O, no clock; `schemas.fold.evolve` decides."""

from collections.abc import Iterable

from schemas.errors import SequenceGap
from schemas.fold import evolve
from schemas.replies import ReplyEvent, SessionDeleted
from store.redis.working_copy import Folded, Step

Event = tuple[ReplyEvent, bytes]
"""An event and the bytes of its record."""


def fold(before: Folded, events: Iterable[Event]) -> tuple[Step | None, list[bytes]]:
    """`before` taken on by the events of its session, and those that follow nothing yet. None: nothing new.

    Events may come again and in any order: since partitions were added, a session's lie in several of them.
    """
    session = before.session
    event_id, values, anew = before.event_id, list[bytes](), False
    held: dict[tuple[int, int], Event] = {}

    def take(event: ReplyEvent, value: bytes) -> None:
        nonlocal session, event_id, anew
        after = evolve(session, event)
        if after is session:
            return
        if event.seq == 1 or isinstance(event, SessionDeleted):
            values.clear()
            anew = True
        values.append(value)
        session, event_id = after, event.id

    for event, value in events:
        try:
            take(event, value)
        except SequenceGap:
            held[event.epoch, event.seq] = (event, value)
    for place in sorted(held):
        try:
            take(*held[place])
        except SequenceGap:
            break
        del held[place]
    after = Folded(session, event_id)
    step = Step(before, after, values, anew) if session is not before.session else None
    return step, [held[place][1] for place in sorted(held)]
