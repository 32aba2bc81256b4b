"""Rotation of the master key around session keys: each is wrapped anew, what they sealed stays as it is.

It may be stopped at any moment and run again. A key that is destroyed meanwhile stays destroyed.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from schemas.session_keys import key_name
from store.encryption import SessionCipher
from store.errors import CorruptSession, WrongKey
from store.session_keys import IndexedKey, KeyEntry, KeyIndex, KeyLog, KeyName

_SHOWN = 10

Progress = Callable[[int, int | None], None]
"""Told how many records of the keys topic were looked at, and of how many, where that is known."""


@dataclass(frozen=True, slots=True)
class WrapSurvey:
    """Which master keys the session keys need."""

    keys: int
    by_key: dict[str, int]
    """Per id of a master key, how many it wrapped."""
    outdated: int
    """That a rotation would wrap anew."""
    locked: int
    """That need a master key which is not there."""


@dataclass(frozen=True, slots=True)
class WrapReport:
    """What a rotation did."""

    rewrapped: int
    already: int
    unreadable: int
    """No master key opens them, or they were changed; left as they are."""
    unreadable_sessions: tuple[str, ...]
    """The first ten."""


class KeyRewrapping:
    """Wraps session keys anew with the first of `cipher`'s keys. The index has to have all that the topic has
    (`SessionKeys.verify_index`). Every method may raise StoreUnavailable."""

    def __init__(self, cipher: SessionCipher, index: KeyIndex, key_log: KeyLog) -> None:
        self._cipher = cipher
        self._index = index
        self._log = key_log

    async def survey(self, progress: Progress) -> WrapSurvey:
        """Looks at all keys and changes nothing."""
        by_key: Counter[str] = Counter()
        async for _, key in self._keys(progress):
            by_key[self._cipher.sealed_by(key.wrapped)] += 1
        known = set(self._cipher.key_ids)
        return WrapSurvey(
            keys=by_key.total(),
            by_key=dict(by_key),
            outdated=sum(count for each, count in by_key.items() if each in known and each != self._cipher.key_id),
            locked=sum(count for each, count in by_key.items() if each not in known),
        )

    async def run(self, progress: Progress) -> WrapReport:
        """Wraps anew what another master key than the first wrapped. Raises PublishError as well."""
        rewrapped = already = 0
        unreadable: list[str] = []
        async for name, key in self._keys(progress):
            if self._cipher.sealed_by(key.wrapped) == self._cipher.key_id:
                already += 1
                continue
            try:
                data_key = self._cipher.open(key_name(*name), key.wrapped)
            except (WrongKey, CorruptSession):
                unreadable.append(name[0])
                continue
            rewrapped += await self._rewrap(name, data_key)
        return WrapReport(rewrapped, already, len(unreadable), tuple(unreadable[:_SHOWN]))

    async def _rewrap(self, name: KeyName, data_key: bytes) -> bool:
        session_id, key_id = name
        wrapped = self._cipher.seal(key_name(*name), data_key)
        offset = await self._log.append(session_id, key_id, wrapped)
        if await self._index.offer(session_id, IndexedKey(key_id, wrapped, offset)) is not None:
            return True
        # Destroyed meanwhile: the index knew first, so what stands in the topic now may be behind its tombstone.
        await self._log.append(session_id, key_id, None)
        return False

    async def _keys(self, progress: Progress) -> AsyncIterator[tuple[KeyName, IndexedKey]]:
        """Every key once, as it is wrapped now."""
        async for entries, reached in self._log.read(0):
            for name, key in await self._newest(entries):
                yield name, key
            progress(reached, None)

    async def _newest(self, entries: list[KeyEntry]) -> list[tuple[KeyName, IndexedKey]]:
        """Those entries that no later one replaced."""
        names = [(entry.session_id, entry.key_id) for entry in entries]
        found = zip(entries, names, await self._index.find(names), strict=True)
        return [(name, key) for entry, name, key in found if isinstance(key, IndexedKey) and key.offset == entry.offset]
