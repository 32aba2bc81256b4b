"""How far the store has what the reply topic has.

A reply is published after its turn is in the store. So once a record of a reply partition is acknowledged, the store
has the turns of all records before it, whoever wrote them. That offset is saved with the progress, in the same store:
if it loses writes, it loses the later marks with them, and the mark that is left says where to read on.
"""

from collections.abc import Callable, Iterable

from schemas.publishing import Position
from workers.records import Partition


class ReplyMarks:
    """Per reply partition the offset after the newest reply that this process published."""

    def __init__(self, inbound_topic: str) -> None:
        """Partitions of this topic are the homes of the sessions in the reply partitions of the same number."""
        self._inbound_topic = inbound_topic
        self._marks: dict[tuple[str, int], int] = {}

    def published(self, position: Position) -> None:
        place = (position.topic, position.partition)
        if position.offset >= self._marks.get(place, 0):
            self._marks[place] = position.offset + 1

    def take(self, owned: Iterable[Partition], name: Callable[[str], str]) -> dict[str, int]:
        """Marks that moved since they were taken last, by `topic:partition`, the topic under its `name`; only of homes
        that are `owned`. Those of others are moved by who repairs them."""
        homes = {partition.partition for partition in owned if partition.topic == self._inbound_topic}
        marks, self._marks = self._marks, {}
        return {f"{name(topic)}:{number}": offset for (topic, number), offset in marks.items() if number in homes}
