"""How far the store has what the reply topic has.

A reply is published after its turn is in the store. So once a record of a reply partition is acknowledged, the store
has the turns of all records before it, whoever wrote them. That offset is saved with the progress, in the same store:
if it loses writes, it loses the later marks with them, and the mark that is left says where to read on.
"""

from collections.abc import Collection

from schemas.publishing import Position


class ReplyMarks:
    """Per reply partition the offset after the newest reply that this process published."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, int], int] = {}

    def published(self, position: Position) -> None:
        place = (position.topic, position.partition)
        if position.offset >= self._marks.get(place, 0):
            self._marks[place] = position.offset + 1

    def take(self, partitions: Collection[int]) -> dict[str, int]:
        """Marks of these partitions that moved since they were taken last, by `topic:partition`."""
        marks, self._marks = self._marks, {}
        return {f"{topic}:{number}": offset for (topic, number), offset in marks.items() if number in partitions}
