"""Keys of sessions: what is published of a session is sealed with one, and gone once its keys are destroyed.

Every key is random, wrapped by the master key, and stands in the keys topic before anything is sealed with it; so
losing the store loses none. The store's index has all that the topic has, and says which key of a session seals. A key
that the index lacks is looked for in the topic before it counts as destroyed.

Decision 16 says why, and what a deletion is in this.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.publishing import PublishError
from schemas.sealed import KEY_ID_BYTES, NONCE_BYTES, Sealed, head_of, is_sealed, parse_sealed
from schemas.session_keys import key_name
from store.encryption import KEY_BYTES, SessionCipher
from store.errors import CorruptSession, KeyDestroyed, KeysUnavailable, StoreUnavailable, WrongKey
from store.recent import Recent

log = structlog.get_logger(__name__)

_KEPT_KEYS = 20_000
_KEPT_SECONDS = 300.0
"""How long a process remembers a key, unwrapped, or that one was destroyed."""

KeyName = tuple[str, str]
"""Session id and key id."""


@dataclass(frozen=True, slots=True)
class IndexedKey:
    """A key as the index has it."""

    key_id: str
    wrapped: bytes
    offset: int
    """Of its record in the keys topic; a key that was wrapped anew has a later one."""


class Destroyed:
    """Stands for a key that is known to be destroyed."""


DESTROYED = Destroyed()


@dataclass(frozen=True, slots=True)
class Mark:
    """Below `offset` of the keys topic the index has everything, as long as it is in this `life`."""

    life: str
    offset: int


class KeyIndex(Protocol):
    """The keys topic, by session. Every method may raise StoreUnavailable, and is safe to repeat."""

    async def current(self, session_id: str) -> IndexedKey | None:
        """The key that seals."""
        ...

    async def offer(self, session_id: str, key: IndexedKey) -> IndexedKey | None:
        """Adds a key, or a later wrapping of it; it seals if no other does. Returns the key that seals, None: the
        offered one was destroyed, so it was not added."""
        ...

    async def find(self, names: Sequence[KeyName]) -> Sequence[IndexedKey | Destroyed | None]: ...

    async def ids(self, session_id: str) -> list[str]:
        """Of all keys of the session."""
        ...

    async def destroy(self, session_id: str, key_ids: Collection[str]) -> None:
        """Removes keys, and remembers that, for longer than their records can still be read in the topic."""
        ...

    async def mark(self) -> Mark:
        """How far it has everything. It begins another life, at 0, where it may have lost anything: it was flushed, or
        another server answers."""
        ...

    async def begin_anew(self) -> Mark:
        """Begins another life: it may have lost something without a sign of it."""
        ...

    async def save_mark(self, before: Mark, offset: int) -> bool:
        """Moves the mark on in its life; not, and False, if it is no longer `before`."""
        ...


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A record of the keys topic. `wrapped` None: the key was destroyed."""

    session_id: str
    key_id: str
    wrapped: bytes | None
    offset: int


class KeyLog(Protocol):
    """The keys topic."""

    async def append(self, session_id: str, key_id: str, wrapped: bytes | None) -> int:
        """Returns the record's offset, once all in-sync replicas have it. Raises PublishError."""
        ...

    async def beat(self) -> None:
        """Writes something (`schemas.session_keys.BEAT`). Raises PublishError."""
        ...

    def read(self, start: int) -> AsyncIterator[tuple[list[KeyEntry], int]]:
        """From `start` (or where the topic begins, or begins anew) to its present end: entries, and before which
        offset all were handed out then; at least once. Raises KeysUnavailable."""
        ...


class SessionKeys:
    """Keeps the promises of `store.seals.Seals`. `seals` False: opens and destroys, but publishes plain text."""

    def __init__(
        self,
        cipher: SessionCipher,
        index: KeyIndex,
        key_log: KeyLog,
        *,
        seals: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cipher = cipher
        self._index = index
        self._log = key_log
        self._seals = seals
        self._unwrapped: Recent[KeyName, AESGCM] = Recent(size=_KEPT_KEYS, seconds=_KEPT_SECONDS, clock=clock)
        self._destroyed: Recent[KeyName, bool] = Recent(size=_KEPT_KEYS, seconds=_KEPT_SECONDS, clock=clock)
        self._spare: Recent[str, KeyName] = Recent(size=_KEPT_KEYS, seconds=_KEPT_SECONDS, clock=clock)
        """Keys that were made while the index was away, and seal until it is back."""
        self._following = asyncio.Lock()
        self._verified = ""
        """The life of the index in which this process has read all of the topic into it."""
        self._is_distrusted = False

    # ---- sealing and opening

    async def seal(self, session_id: str, data: bytes) -> bytes:
        if not self._seals:
            return data
        name, key = await self._sealing_key(session_id)
        nonce = os.urandom(NONCE_BYTES)
        head = head_of(*name, nonce)
        ciphertext: bytes = key.encrypt(nonce, data, head)
        return head + ciphertext

    async def open(self, value: bytes, *, anew: bool = False) -> bytes:
        if not is_sealed(value):
            return value
        try:
            sealed = parse_sealed(value)
        except ValueError as error:
            raise CorruptSession(f"A sealed record can't be read: {error}") from error
        name = sealed.session_id, sealed.key_id
        if anew:
            self._unwrapped.drop(name)
        keys = await self._keys([name])
        if name not in keys:
            raise KeyDestroyed(f"What was published of session {sealed.session_id} was erased.")
        return _opened(keys[name], sealed)

    async def opened(self, values: Sequence[bytes | None], *, without_wrong_keys: bool = False) -> list[bytes | None]:
        found = list(values)
        sealed: dict[int, Sealed] = {}
        for place, value in enumerate(values):
            if value is not None and is_sealed(value):
                try:
                    sealed[place] = parse_sealed(value)
                except ValueError as error:
                    log.error("sealed_value_unreadable", error=str(error))
        if not sealed:
            return found
        names = {(each.session_id, each.key_id) for each in sealed.values()}
        keys = await self._keys(names, without_wrong_keys=without_wrong_keys)
        for place, each in sealed.items():
            if (key := keys.get((each.session_id, each.key_id))) is None:
                continue
            try:
                found[place] = _opened(key, each)
            except CorruptSession as error:
                log.error("sealed_value_unreadable", session_id=each.session_id, error=str(error))
        return found

    async def _sealing_key(self, session_id: str) -> tuple[KeyName, AESGCM]:
        try:
            current = await self._index.current(session_id) or await self._index.offer(
                session_id, await self._make(session_id)
            )
        except WrongKey:
            raise
        except StoreUnavailable:
            return await self._spare_key(session_id)
        if current is None:
            raise KeysUnavailable(f"A new key of session {session_id} was destroyed at once.")
        name = session_id, current.key_id
        return name, self._unwrapped.get(name) or self._unwrap(name, current.wrapped)

    async def _spare_key(self, session_id: str) -> tuple[KeyName, AESGCM]:
        """Without the index: who reads finds the key in the topic."""
        name = self._spare.get(session_id)
        key = None if name is None else self._unwrapped.get(name)
        if name is None or key is None:
            made = await self._make(session_id)
            name = session_id, made.key_id
            key = self._unwrap(name, made.wrapped)
            self._spare.put(session_id, name)
        return name, key

    async def _make(self, session_id: str) -> IndexedKey:
        key_id = os.urandom(KEY_ID_BYTES).hex()
        wrapped = self._cipher.seal(key_name(session_id, key_id), os.urandom(KEY_BYTES))
        return IndexedKey(key_id, wrapped, await self._log.append(session_id, key_id, wrapped))

    def _unwrap(self, name: KeyName, wrapped: bytes) -> AESGCM:
        key = AESGCM(self._cipher.open(key_name(*name), wrapped))
        self._unwrapped.put(name, key)
        return key

    # ---- knowing keys

    async def _keys(self, names: Collection[KeyName], *, without_wrong_keys: bool = False) -> dict[KeyName, AESGCM]:
        """Those of `names` that are there; the others are destroyed."""
        known = {name: key for name in names if (key := self._unwrapped.get(name)) is not None}
        lacking = [name for name in names if name not in known and not self._destroyed.get(name)]
        lacking = await self._find(lacking, known, without_wrong_keys)
        if lacking:
            await self.follow()
            lacking = await self._find(lacking, known, without_wrong_keys)
        if lacking:
            # Somebody may have removed some from the index, which leaves no sign.
            await self.verify_index()
            lacking = await self._find(lacking, known, without_wrong_keys)
        for name in lacking:
            self._destroyed.put(name, True)
        return known

    async def _find(
        self, names: Sequence[KeyName], known: dict[KeyName, AESGCM], without_wrong_keys: bool
    ) -> list[KeyName]:
        """Adds what the index has to `known`; returns what it neither has, nor knows as destroyed."""
        if not names:
            return []
        lacking = []
        for name, found in zip(names, await self._index.find(names), strict=True):
            if isinstance(found, IndexedKey):
                try:
                    known[name] = self._unwrap(name, found.wrapped)
                except (WrongKey, CorruptSession) as error:
                    if not without_wrong_keys:
                        raise
                    log.error("session_key_locked", session_id=name[0], error=str(error))
            elif found is None:
                lacking.append(name)
            else:
                self._destroyed.put(name, True)
        return lacking

    async def follow(self) -> None:
        """Brings the index up to the topic's present end. Raises StoreUnavailable."""
        async with self._following:
            mark = await self._mark()
            if await self._read(mark, mark.offset) and mark.offset == 0:
                self._verified = mark.life

    async def verify_index(self) -> None:
        """Reads all of the topic into the index, once in each of its lives. Raises as `follow`."""
        async with self._following:
            while (mark := await self._mark()).life != self._verified:
                if await self._read(mark, 0):
                    self._verified = mark.life

    def distrust_index(self) -> None:
        self._is_distrusted = True
        self._destroyed.clear()

    async def _mark(self) -> Mark:
        if self._is_distrusted:
            mark = await self._index.begin_anew()
            self._is_distrusted = False
            return mark
        return await self._index.mark()

    async def _read(self, mark: Mark, start: int) -> bool:
        """Returns whether the index has all of it now: not if it was flushed in between, or somebody else read."""
        end = start
        refused: set[KeyName] = set()
        async for entries, end in self._log.read(start):  # noqa: B007  # the last one counts
            taken = await asyncio.gather(*map(self._index_entry, entries))
            for entry, is_refused in zip(entries, taken, strict=True):
                name = entry.session_id, entry.key_id
                if is_refused:
                    refused.add(name)
                elif entry.wrapped is None:
                    refused.discard(name)
        try:
            for name in refused:
                # Whoever wrapped it anew while it was destroyed died before taking that back.
                await self._log.append(*name, None)
        except PublishError as error:
            raise KeysUnavailable(str(error)) from error
        return await self._index.save_mark(mark, end)

    async def _index_entry(self, entry: KeyEntry) -> bool:
        """Returns whether it is a key that the index knows as destroyed."""
        if entry.wrapped is None:
            await self._index.destroy(entry.session_id, [entry.key_id])
            return False
        key = IndexedKey(entry.key_id, entry.wrapped, entry.offset)
        return await self._index.offer(entry.session_id, key) is None

    async def keep_up(self, *, beat: bool) -> None:
        await self.follow()
        if beat:
            await self._log.beat()

    # ---- destroying

    async def ids_of(self, session_id: str) -> list[str]:
        await self.follow()
        if not (found := await self._index.ids(session_id)):
            await self.verify_index()
            found = await self._index.ids(session_id)
        return sorted(found)

    async def destroy(self, session_id: str, key_ids: Collection[str]) -> None:
        # The index first: whoever wraps a key anew at this moment sees that there, and takes it back in the topic.
        await self._index.destroy(session_id, key_ids)
        for key_id in key_ids:
            await self._log.append(session_id, key_id, None)
            self._unwrapped.drop((session_id, key_id))
        self._spare.drop(session_id)
        if key_ids:
            log.info("session_keys_destroyed", session_id=session_id, count=len(key_ids))


def _opened(key: AESGCM, sealed: Sealed) -> bytes:
    try:
        data: bytes = key.decrypt(sealed.nonce, sealed.ciphertext, sealed.head)
    except InvalidTag as error:
        raise CorruptSession(f"What was published of session {sealed.session_id} was changed.") from error
    return data
