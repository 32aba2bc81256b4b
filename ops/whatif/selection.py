"""Which recorded turns are answered again. Decides only."""

from heapq import heappush, heapreplace

from schemas.replies import ReplyEvent, TurnCompleted


class NewestTurns:
    """Takes reply events in any order and keeps the newest `limit` turns that have a customer's message and a reply.

    What is published again is recognised among the turns that are kept; memory grows with `limit` alone.
    """

    def __init__(self, limit: int) -> None:
        """`limit` is 1 or more."""
        self._limit = limit
        self._order: list[tuple[str, str]] = []
        self._kept: dict[str, TurnCompleted] = {}
        self.found = 0
        """How many such turns there were."""
        self.without_reply = 0
        """Messages that got no reply because a person held the session."""

    def take(self, event: ReplyEvent) -> None:
        if not isinstance(event, TurnCompleted) or event.message is None or event.id in self._kept:
            return
        if event.reply is None:
            self.without_reply += 1
            return
        self.found += 1
        # Workers write all times alike, in UTC and to the millisecond, so their order is that of the texts.
        place = (event.completed_at, event.id)
        if len(self._order) < self._limit:
            heappush(self._order, place)
        elif place > self._order[0]:
            del self._kept[heapreplace(self._order, place)[1]]
        else:
            return
        self._kept[event.id] = event

    def turns(self) -> list[TurnCompleted]:
        """The newest first."""
        return [self._kept[event_id] for _, event_id in sorted(self._order, reverse=True)]
