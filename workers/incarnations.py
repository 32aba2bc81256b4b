"""Which life of a topic an offset belongs to.

A topic that is deleted and created again counts from 0 anew. What sessions and store remember of the old one's offsets
would make the new one's records look done, so offsets are kept under names that tell the lives apart
(`schemas.incarnation`). An operator begins a new life (`supportstream topics adopt`); nobody guesses.
"""

from collections.abc import Iterable, Mapping

from schemas.incarnation import incarnation_key, incarnation_name, parse_incarnation
from store.protocol import SessionStore


class Incarnations:
    """The lives of topics, as the store and the reply topic know them."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._numbers: dict[str, int] = {}

    async def learn(self, topics: Iterable[str]) -> None:
        """Reads what the store knows. Never goes back: a store that lost it learns it again from `seen`."""
        keys = {incarnation_key(topic): topic for topic in topics}
        for key, number in (await self._store.progress(list(keys))).items():
            self._raise(keys[key], number)

    async def save(self) -> None:
        await self._store.save_progress({incarnation_key(topic): number for topic, number in self._numbers.items()})

    def seen(self, name: str) -> None:
        """A name under which offsets were kept, in an event."""
        topic, number = parse_incarnation(name)
        if number:
            self._raise(topic, number)

    def name(self, topic: str) -> str:
        """The topic's present life."""
        return incarnation_name(topic, self._numbers.get(topic, 0))

    @property
    def numbers(self) -> Mapping[str, int]:
        """Of every topic that was created again."""
        return dict(self._numbers)

    def _raise(self, topic: str, number: int) -> None:
        self._numbers[topic] = max(number, self._numbers.get(topic, 0))
