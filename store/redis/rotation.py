"""Rotation of the encryption key while the workers go on: what any key opens is sealed anew with the first.

It may be stopped at any moment and run again: each session is written in one step, and says which keys sealed it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import orjson

from store.encryption import SessionCipher
from store.errors import CorruptSession, WrongKey
from store.redis.connect import RedisConnections
from store.redis.keys import Keys
from store.redis.round_trips import RoundTrips
from store.redis.scan import session_id_pages
from store.redis.scripts import READ_SEALED, RESEAL

PLAIN = ""
"""Stands for the key of what is not sealed at all."""

_PAGE = 256
"""Sessions whose keys are asked for in one round trip."""
_AT_ONCE = 16
"""Sessions that are held and sealed at once, each with its newest events: this bounds the memory."""
_SHOWN_IDS = 10

Progress = Callable[[int, int | None], None]
"""Told how many sessions were looked at, and of how many, where that is known."""

_KeyIds = tuple[str, ...]
"""Of the keys that sealed something of a session; empty where there is none."""

_Outcome = Literal["rotated", "already", "unreadable", "expired"]


@dataclass(frozen=True, slots=True)
class KeySurvey:
    """Which keys what is stored needs."""

    sessions: int
    by_key: dict[str, int]
    """Per key id (`PLAIN`: none) the sessions of which it sealed something; a session may count under several."""
    outdated: int
    """Sessions that a rotation would seal anew."""
    locked: int
    """Sessions that need a key which is not there."""


@dataclass(frozen=True, slots=True)
class RotationReport:
    """What a rotation did, in sessions."""

    rotated: int
    already: int
    """Sealed by the first key alone before."""
    unreadable: int
    """No key opens all of it, or a part belongs to another session. Left as it is."""
    expired: int
    """Gone before it was their turn."""
    unreadable_ids: tuple[str, ...]
    """The first ten."""


class KeyRotation:
    """Seals sessions anew with the first of `cipher`'s keys. `connections` are closed with it.

    Every method may raise StoreUnavailable; what was done until then stays done.
    """

    def __init__(self, connections: RedisConnections, *, key_prefix: str, cipher: SessionCipher) -> None:
        self._connections = connections
        self._round_trips = RoundTrips(connections.links)
        self._keys = Keys(key_prefix)
        self._cipher = cipher
        self._alone = asyncio.Lock()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Names of the keys that are there, the one that seals first."""
        return self._cipher.key_ids

    async def survey(self, progress: Progress) -> KeySurvey:
        """Looks at all sessions and changes nothing."""
        sessions = outdated = locked = 0
        by_key: Counter[str] = Counter()
        known = {PLAIN, *self.key_ids}
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                for _, key_ids in page:
                    if not key_ids:
                        continue
                    sessions += 1
                    by_key.update(key_ids)
                    if not known.issuperset(key_ids):
                        locked += 1
                    elif not self._is_done(key_ids):
                        outdated += 1
                progress(sessions, None)
        return KeySurvey(sessions, dict(by_key), outdated, locked)

    async def run(self, progress: Progress, expected: int | None = None) -> RotationReport:
        """Seals anew what another key than the first sealed, or none did. Versions and times to live stay as they are.

        `expected` is the number of sessions, for the progress.
        """
        outcomes: Counter[_Outcome] = Counter()
        unreadable_ids: list[str] = []
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                for start in range(0, len(page), _AT_ONCE):
                    some = page[start : start + _AT_ONCE]
                    found = await asyncio.gather(*(self._rotate(session_id, key_ids) for session_id, key_ids in some))
                    outcomes.update(found)
                    unreadable = [some[n][0] for n, outcome in enumerate(found) if outcome == "unreadable"]
                    unreadable_ids = [*unreadable_ids, *unreadable][:_SHOWN_IDS]
                    progress(outcomes.total(), expected)
        return RotationReport(
            rotated=outcomes["rotated"],
            already=outcomes["already"],
            unreadable=outcomes["unreadable"],
            expired=outcomes["expired"],
            unreadable_ids=tuple(unreadable_ids),
        )

    async def close(self) -> None:
        await self._round_trips.close()
        await self._connections.close()

    async def _pages(self) -> AsyncGenerator[list[tuple[str, _KeyIds]]]:
        async with aclosing(session_id_pages(self._connections.client, self._keys, size=_PAGE)) as pages:
            async for page in pages:
                stored = await asyncio.gather(
                    *(self._round_trips.run("HMGET", self._keys.session(each), "version", "key") for each in page)
                )
                yield [
                    (session_id, _key_ids(version, key))
                    for session_id, (version, key) in zip(page, stored, strict=True)
                ]

    def _is_done(self, key_ids: _KeyIds) -> bool:
        return key_ids == (self._cipher.key_id,)

    async def _rotate(self, session_id: str, key_ids: _KeyIds) -> _Outcome:
        if self._is_done(key_ids):
            return "already"
        anew: dict[bytes, bytes] = {}
        outcome = await self._attempt(session_id, anew)
        if outcome is None:
            # Alone, and with most of it sealed already, it comes before the next turn.
            async with self._alone:
                while outcome is None:
                    outcome = await self._attempt(session_id, anew)
        return outcome

    async def _attempt(self, session_id: str, anew: dict[bytes, bytes]) -> _Outcome | None:
        """None: somebody else wrote meanwhile. `anew` is what was sealed so far, by what it was made from."""
        keys = [self._keys.session(session_id), self._keys.events(session_id)]
        [[version, event, key, state], events] = await self._round_trips.run_script(READ_SEALED, keys, [])
        if version is None:
            return "expired"
        if self._is_done(_key_ids(version, key)):
            return "already"
        values: list[bytes] = [state or b"", *events]
        try:
            anew.update({value: self._seal_anew(session_id, value) for value in values if value not in anew})
        except (WrongKey, CorruptSession):
            return "unreadable"
        args = [version, event or b"", self._cipher.key_id, *(anew[value] for value in values)]
        done: int = await self._round_trips.run_script(RESEAL, keys, args)
        return "rotated" if done else None

    def _seal_anew(self, session_id: str, value: bytes) -> bytes:
        """Raises WrongKey or CorruptSession, as `Cipher.open`."""
        # The store itself takes no plain text while encryption is on; here it comes from before that.
        plain = _of_session(session_id, value) if value.startswith(b"{") else self._cipher.open(session_id, value)
        return self._cipher.seal(session_id, plain)


def _key_ids(version: bytes | None, key: bytes | None) -> _KeyIds:
    # Sessions from before there was encryption have no `key`.
    return () if version is None else tuple((key or b"").decode().split(" "))


def _of_session(session_id: str, plain: bytes) -> bytes:
    """`plain`, a state or event of this session. Raises CorruptSession for all else: sealing would vouch for it."""
    try:
        owner = orjson.loads(plain).get("session_id")
    except orjson.JSONDecodeError as error:
        raise CorruptSession(f"What is stored for session {session_id} can't be read: {error}") from error
    if owner != session_id:
        raise CorruptSession(f"What is stored for session {session_id} belongs to another session.")
    return plain
