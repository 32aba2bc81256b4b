"""The index of session keys and their topic in memory, and processes over them.

`tests.contract.test_key_index` holds the index to the same promises as the one in Redis.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field

from store.encryption import SessionCipher, new_key
from store.errors import KeysUnavailable, StoreUnavailable
from store.rewrapping import KeyRewrapping
from store.session_keys import DESTROYED, Destroyed, IndexedKey, KeyEntry, KeyName, Mark, SessionKeys

MASTER = new_key()


@dataclass
class MemoryKeyIndex:
    """As `store.redis.key_index.RedisKeyIndex`; `away` makes every call fail."""

    keys: dict[KeyName, IndexedKey] = field(default_factory=dict)
    sealing: dict[str, str] = field(default_factory=dict)
    destroyed: set[KeyName] = field(default_factory=set)
    life: int = 0
    marked: Mark | None = None
    away: bool = False

    def flush(self) -> None:
        self.keys, self.sealing, self.destroyed, self.marked = {}, {}, set(), None

    def lose(self, *names: KeyName) -> None:
        """Somebody removes them: the mark stays."""
        for name in names:
            self.keys.pop(name)
            if self.sealing.get(name[0]) == name[1]:
                del self.sealing[name[0]]

    async def current(self, session_id: str) -> IndexedKey | None:
        self._check()
        key_id = self.sealing.get(session_id)
        return None if key_id is None else self.keys[session_id, key_id]

    async def offer(self, session_id: str, key: IndexedKey) -> IndexedKey | None:
        self._check()
        name = session_id, key.key_id
        if name in self.destroyed:
            return None
        if name not in self.keys or self.keys[name].offset < key.offset:
            self.keys[name] = key
        return self.keys[session_id, self.sealing.setdefault(session_id, key.key_id)]

    async def find(self, names: Sequence[KeyName]) -> Sequence[IndexedKey | Destroyed | None]:
        self._check()
        return [self.keys.get(name) or (DESTROYED if name in self.destroyed else None) for name in names]

    async def ids(self, session_id: str) -> list[str]:
        self._check()
        return [key_id for owner, key_id in self.keys if owner == session_id]

    async def destroy(self, session_id: str, key_ids: Collection[str]) -> None:
        self._check()
        for key_id in key_ids:
            self.keys.pop((session_id, key_id), None)
            self.destroyed.add((session_id, key_id))
            if self.sealing.get(session_id) == key_id:
                del self.sealing[session_id]

    async def mark(self) -> Mark:
        self._check()
        return self.marked or await self.begin_anew()

    async def begin_anew(self) -> Mark:
        self._check()
        self.life += 1
        self.marked = Mark(str(self.life), 0)
        return self.marked

    async def save_mark(self, before: Mark, offset: int) -> bool:
        self._check()
        if self.marked != before:
            return False
        self.marked = Mark(before.life, offset)
        return True

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("Redis is away")


@dataclass
class MemoryKeyLog:
    """The keys topic as a list; `away` makes every call fail."""

    entries: list[KeyEntry] = field(default_factory=list)
    away: bool = False
    reads: list[int] = field(default_factory=list)
    """Where each reading began."""
    beats: int = 0

    async def append(self, session_id: str, key_id: str, wrapped: bytes | None) -> int:
        self._check()
        self.entries.append(KeyEntry(session_id, key_id, wrapped, len(self.entries)))
        return len(self.entries) - 1

    async def beat(self) -> None:
        self._check()
        self.beats += 1

    async def read(self, start: int) -> AsyncIterator[tuple[list[KeyEntry], int]]:
        self._check()
        self.reads.append(start)
        end = len(self.entries)
        start = 0 if start > end else start
        for at in range(start, end, 3):
            yield self.entries[at : min(at + 3, end)], min(at + 3, end)
        yield [], end

    def compact(self) -> None:
        """What is left of each key is its newest record, where it stood."""
        newest = {(entry.session_id, entry.key_id): entry for entry in self.entries}
        self.entries = [
            entry if newest[entry.session_id, entry.key_id] is entry else KeyEntry("", "", None, entry.offset)
            for entry in self.entries
        ]

    def _check(self) -> None:
        if self.away:
            raise KeysUnavailable("Kafka is away")


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class System:
    """A topic and an index, and processes over them."""

    def __init__(self) -> None:
        self.index, self.log, self.time = MemoryKeyIndex(), MemoryKeyLog(), Time()

    def process(self, *masters: str, seals: bool = True) -> SessionKeys:
        """A new one: it remembers nothing."""
        return SessionKeys(SessionCipher(masters or [MASTER]), self.index, self.log, seals=seals, clock=self.time)

    def rewrapping(self, *masters: str) -> KeyRewrapping:
        return KeyRewrapping(SessionCipher(masters), self.index, self.log)

    @property
    def readable(self) -> int:
        """Keys that the topic still has."""
        newest = {(entry.session_id, entry.key_id): entry.wrapped for entry in self.log.entries if entry.key_id}
        return sum(wrapped is not None for wrapped in newest.values())
