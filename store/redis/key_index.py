"""The index of session keys in Redis: a hash per session, beside it under the same hash tag."""

import asyncio
from collections.abc import Collection, Sequence
from uuid import uuid4

from store.redis.connect import RedisConnections
from store.redis.keys import Keys
from store.redis.round_trips import RoundTrips
from store.redis.scripts import CURRENT_KEY, DESTROY_KEYS, FIND_KEY, OFFER_KEY, SAVE_KEYS_MARK
from store.session_keys import DESTROYED, Destroyed, IndexedKey, KeyName, Mark

_VERSION = b"\x01"
"""What every wrapped key begins with (`store.encryption`). Without it a value has 64 bytes, up to which Redis keeps a
small hash in one piece of memory: that is half of what it takes otherwise."""
_DESTROYED_SECONDS = 3 * 24 * 3600
"""Longer than the topic keeps the record of a destroyed key (`schemas.topics`)."""


class RedisKeyIndex:
    """Keeps the promises of `store.session_keys.KeyIndex`. `connections` are closed with it."""

    def __init__(self, connections: RedisConnections, *, key_prefix: str) -> None:
        self._connections = connections
        self._round_trips = RoundTrips(connections.links)
        self._keys = Keys(key_prefix)

    async def current(self, session_id: str) -> IndexedKey | None:
        return _indexed(await self._round_trips.run_script(CURRENT_KEY, [self._keys.session_keys(session_id)], []))

    async def offer(self, session_id: str, key: IndexedKey) -> IndexedKey | None:
        args = [key.key_id, key.offset, key.wrapped.removeprefix(_VERSION)]
        return _indexed(await self._round_trips.run_script(OFFER_KEY, self._names(session_id), args))

    async def find(self, names: Sequence[KeyName]) -> Sequence[IndexedKey | Destroyed | None]:
        return await asyncio.gather(*(self._find(*name) for name in names))

    async def _find(self, session_id: str, key_id: str) -> IndexedKey | Destroyed | None:
        found = await self._round_trips.run_script(FIND_KEY, self._names(session_id), [key_id])
        if isinstance(found, list):
            return _key(key_id, found)
        return DESTROYED if found else None

    async def ids(self, session_id: str) -> list[str]:
        fields: list[bytes] = await self._round_trips.run("HKEYS", self._keys.session_keys(session_id))
        return [field.decode() for field in fields if field != b"current" and not field.endswith(b"@")]

    async def destroy(self, session_id: str, key_ids: Collection[str]) -> None:
        if key_ids:
            args = [_DESTROYED_SECONDS, *key_ids]
            await self._round_trips.run_script(DESTROY_KEYS, self._names(session_id), args)

    async def mark(self) -> Mark:
        stored = await self._stored_mark()
        life, _, offset = stored.rpartition(" ")
        if life.startswith(f"{self._round_trips.server} "):
            return Mark(life, int(offset))
        return await self._begin_anew(stored)

    async def begin_anew(self) -> Mark:
        return await self._begin_anew(await self._stored_mark())

    async def save_mark(self, before: Mark, offset: int) -> bool:
        return await self._replace_mark(_mark_text(before), Mark(before.life, offset))

    async def _begin_anew(self, stored: str) -> Mark:
        mark = Mark(f"{self._round_trips.server} {uuid4().hex}", 0)
        # Whoever was faster began another life as well.
        return mark if await self._replace_mark(stored, mark) else await self.mark()

    async def _stored_mark(self) -> str:
        return (await self._round_trips.run("GET", self._keys.session_keys_mark) or b"").decode()

    async def _replace_mark(self, stored: str, mark: Mark) -> bool:
        args = [stored, _mark_text(mark)]
        done: int = await self._round_trips.run_script(SAVE_KEYS_MARK, [self._keys.session_keys_mark], args)
        return done == 1

    async def close(self) -> None:
        await self._round_trips.close()
        await self._connections.close()

    def _names(self, session_id: str) -> list[str]:
        return [self._keys.session_keys(session_id), self._keys.destroyed_keys(session_id)]


def _indexed(response: tuple[bytes, list[bytes]] | None) -> IndexedKey | None:
    return None if response is None else _key(response[0].decode(), response[1])


def _key(key_id: str, stored: list[bytes]) -> IndexedKey:
    return IndexedKey(key_id, _VERSION + stored[0], int(stored[1]))


def _mark_text(mark: Mark) -> str:
    return f"{mark.life} {mark.offset}"
