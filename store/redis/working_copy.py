"""Sessions beside the live ones, while they are rebuilt: under a prefix of their own, in the same Redis.

It keeps what a rebuild has so far, so that the rebuild needs little memory and goes on after it was killed. Each
session has a hash and a list, as a live one; its events are whole, or digests where they are only to be compared.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_hex
from typing import Any

from schemas.session import EARLIER_IDS_MS, RECENT_EVENTS, SessionData
from store.encryption import Cipher
from store.errors import CorruptSession, WrongKey
from store.protocol import PushedOut
from store.redis.connect import RedisConnections
from store.redis.keys import Keys, digest_of_id
from store.redis.round_trips import Command, RoundTrips
from store.redis.scan import session_id_pages
from store.redis.scripts import FOLD_IN, REMOVE, SEED, SWITCH, Script
from store.redis.state import open_state

_GROUP = 256
"""Commands in one round trip."""
_FORM = 2
"""Of what is kept: another version of this program doesn't go on with it."""
_LEASE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Folded:
    """A session as far as it was folded."""

    session: SessionData | None
    event_id: str = ""

    @property
    def at(self) -> str:
        """Where it stands: what a write is compared with."""
        return "" if self.session is None else f"{self.session.epoch}:{self.session.seq}"


@dataclass(frozen=True, slots=True)
class Step:
    """A session folded on: from `before` to `after`, by `events`, which begin its list anew if `anew`."""

    before: Folded
    after: Folded
    events: Sequence[bytes]
    anew: bool
    pushed_out: PushedOut = ()
    """Inbound ids that left the session's recent ones on the way, in the life that it ends in."""

    @property
    def ends_a_life(self) -> bool:
        """Whether the session had an earlier life in the copy, whose ids are forgotten."""
        return self.anew and self.before.session is not None


@dataclass(frozen=True, slots=True)
class Pair:
    """A session as it was rebuilt and as it is live. None: it isn't there."""

    session_id: str
    rebuilt: SessionData | None
    live: SessionData | None
    live_ttl_seconds: float = 0.0
    unreadable: str = ""
    """Why what is live can't be read; then `live` is None."""
    live_epoch: int = 0
    live_version: int = 0
    switched: bool = False
    """The rebuilt one took the live one's place before."""


class WorkingCopy:
    """One rebuild's sessions, and how far it is. `connections` are closed with it.

    Every method may raise StoreError.
    """

    def __init__(
        self,
        connections: RedisConnections,
        *,
        live_prefix: str,
        name: str,
        cipher: Cipher,
        whole: bool,
        keep_seconds: float,
    ) -> None:
        """`whole`: events as they are, not as digests. What was written last is kept for `keep_seconds`."""
        prefix = f"{live_prefix}replay:{_FORM}:{name}:"
        self._connections = connections
        self._keys = Keys(prefix)
        self._live = Keys(live_prefix)
        self._about, self._held, self._owner = f"{prefix}about", f"{prefix}held", f"{prefix}owner"
        self._prefix = prefix
        self._cipher = cipher
        self._whole = whole
        self.keep_seconds = keep_seconds
        self._keep_ms = int(keep_seconds * 1000)
        self._round_trips = RoundTrips(connections.links)
        self._alone = asyncio.Lock()
        self._writer, self._marks = token_hex(8), 0

    # ---- whose it is, and how far it is

    async def take_lease(self, token: str) -> bool:
        """Whether it is now, or still, `token`'s for some seconds. Ask again every few seconds."""
        taken = await self._run("SET", self._owner, token, "NX", "EX", _LEASE_SECONDS)
        if taken:
            return True
        if await self._run("GET", self._owner) != token.encode():
            return False
        await self._run("EXPIRE", self._owner, _LEASE_SECONDS)
        return True

    async def release_lease(self, token: str) -> None:
        if await self._run("GET", self._owner) == token.encode():
            await self._run("DEL", self._owner)

    async def progress(self) -> dict[str, int]:
        """What `save_progress` was told."""
        flat = await self._run("HGETALL", self._about)
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        return {name.decode(): int(value) for name, value in pairs}

    async def save_progress(self, numbers: Mapping[str, int]) -> None:
        if numbers:
            await self._run("HSET", self._about, *(part for item in numbers.items() for part in item))
            await self._run("PEXPIRE", self._about, self._keep_ms)

    # ---- folding

    async def read(self, session_ids: Sequence[str]) -> list[Folded]:
        """Each session as far as it is folded."""
        found = await self._many(("HMGET", self._keys.session(each), "state", "event") for each in session_ids)
        return [
            Folded(None) if state is None else Folded(open_state(self._cipher, session_id, state), event.decode())
            for session_id, (state, event) in zip(session_ids, found, strict=True)
        ]

    async def write(self, steps: Sequence[Step]) -> list[bool]:
        """Which of them were written; another one was folded on by somebody else meanwhile."""
        # Two commands for each, and a group has an even number: both go over the same link.
        commands = [command for step in steps for command in self._fold_in(step)]
        written = [done == 1 for done in (await self._many(commands))[1::2]]
        await self._many(self._remembering([step for step in steps if step.pushed_out or step.ends_a_life]))
        return written

    def _remembering(self, steps: Sequence[Step]) -> list[Command]:
        """That an id was answered stays true whoever folded the session on, and however often."""
        commands: list[Command] = []
        for step in steps:
            assert step.after.session is not None
            key = self._keys.earlier_ids(step.after.session.session_id)
            ids = (part for inbound_id, at_ms in step.pushed_out for part in (at_ms, digest_of_id(inbound_id)))
            if step.ends_a_life:
                commands.append(("DEL", key))
            if step.pushed_out:
                commands += [("ZADD", key, *ids), ("PEXPIRE", key, self._keep_ms)]
        return commands

    def _fold_in(self, step: Step) -> tuple[Command, Command]:
        session = step.after.session
        assert session is not None
        session_id, seal = session.session_id, self._cipher.seal
        values = self._values(session_id, step.events[-RECENT_EVENTS:])
        self._marks += 1
        mark = f"{self._writer}:{self._marks}"
        keys = self._of(session_id)
        state = seal(session_id, session.to_json())
        of_the_session = (step.before.at, step.after.at, step.after.event_id, state, self._cipher.key_id)
        of_its_events = (self._keep_ms, RECENT_EVENTS, int(step.anew), len(values), mark)
        return (
            ("RPUSH", keys[1], *values, mark),
            ("EVALSHA", FOLD_IN.sha, len(keys), *keys, *of_the_session, *of_its_events),
        )

    def _values(self, session_id: str, events: Sequence[bytes]) -> list[bytes]:
        if not self._whole:
            return [digest(event) for event in events]
        return [self._cipher.seal(session_id, event) for event in events]

    async def seed(self, snapshots: Sequence[tuple[Folded, Sequence[bytes]]]) -> None:
        """Sessions with their newest events, from snapshots; whatever was there of them is replaced."""
        calls = []
        for folded, events in snapshots:
            assert folded.session is not None
            session_id = folded.session.session_id
            values = self._values(session_id, events)
            state = self._cipher.seal(session_id, folded.session.to_json())
            args = [folded.at, folded.event_id, state, self._cipher.key_id, self._keep_ms, *values]
            calls.append((self._of(session_id), args))
        await self._many_scripts(SEED, calls)

    async def whole(self, session_ids: Sequence[str]) -> list[tuple[Folded, list[bytes], bool]]:
        """Sessions with their newest events, and whether a snapshot has them just so."""
        commands: list[Command] = []
        for each in session_ids:
            commands.append(("HMGET", self._keys.session(each), "at", "seeded", "state", "event"))
            commands.append(("LRANGE", self._keys.events(each), 0, -1))
        found = await self._many(commands, group=32)
        sessions = []
        for n, session_id in enumerate(session_ids):
            at, seeded, state, event = found[2 * n]
            if state is None:
                continue
            folded = Folded(open_state(self._cipher, session_id, state), event.decode())
            events = [self._cipher.open(session_id, value) for value in found[2 * n + 1]]
            sessions.append((folded, events, at == seeded))
        return sessions

    async def hold(self, events: Mapping[str, Sequence[bytes]]) -> None:
        """Keeps events of sessions that follow nothing yet."""
        seal = self._cipher.seal
        commands: list[Command] = []
        for session_id, values in events.items():
            key = self._held_key(session_id)
            # Pushed twice by a repeated command, an event is folded once.
            commands.append(("RPUSH", key, *(seal(session_id, value) for value in values)))
            commands.append(("PEXPIRE", key, self._keep_ms))
            commands.append(("SADD", self._held, session_id))
        if commands:
            await self._many([*commands, ("PEXPIRE", self._held, self._keep_ms)])

    async def held_sessions(self) -> list[str]:
        """The sessions of which `hold` has events."""
        return sorted(each.decode() for each in await self._run("SMEMBERS", self._held))

    async def held(self, session_id: str) -> list[bytes]:
        values = await self._run("LRANGE", self._held_key(session_id), 0, -1)
        return [self._cipher.open(session_id, value) for value in values]

    async def drop_held(self, session_id: str) -> None:
        await self._run("DEL", self._held_key(session_id))
        await self._run("SREM", self._held, session_id)

    async def forget(self, session_ids: Iterable[str]) -> None:
        """Sessions that are of no interest any more."""
        await self._many(("DEL", *self._of(each), self._keys.earlier_ids(each)) for each in session_ids)

    # ---- beside the live ones

    def pages(self, size: int = _GROUP) -> AsyncGenerator[list[str]]:
        """The ids of the sessions that were rebuilt."""
        return session_id_pages(self._connections.client, self._keys, size=size)

    async def pairs(self, session_ids: Sequence[str]) -> list[Pair]:
        """Rebuilt and live, without events."""
        commands: list[Command] = []
        for each in session_ids:
            commands.append(("HMGET", self._keys.session(each), "state", "switched"))
            commands.append(("HMGET", self._live.session(each), "version", "epoch", "state"))
        found = await self._many(commands)
        live = [each for each, stored in zip(session_ids, found[1::2], strict=True) if stored[2] is not None]
        lives = await self._many(("PTTL", self._live.session(each)) for each in live)
        ttl_ms = dict(zip(live, lives, strict=True))
        return [
            self._pair(each, found[2 * n], found[2 * n + 1], ttl_ms.get(each, 0)) for n, each in enumerate(session_ids)
        ]

    def _pair(self, session_id: str, made: list[bytes | None], stored: list[bytes | None], live_ttl_ms: int) -> Pair:
        rebuilt_state, switched = made
        rebuilt = open_state(self._cipher, session_id, rebuilt_state) if rebuilt_state is not None else None
        if switched:
            return Pair(session_id, rebuilt, None, switched=True)
        version, epoch, state = stored
        if version is None or state is None:
            return Pair(session_id, rebuilt, None)
        at = {"live_ttl_seconds": live_ttl_ms / 1000, "live_epoch": int(epoch or 0), "live_version": int(version)}
        try:
            return Pair(session_id, rebuilt, open_state(self._cipher, session_id, state), **at)  # type: ignore[arg-type]
        except (CorruptSession, WrongKey) as error:
            return Pair(session_id, rebuilt, None, unreadable=str(error), **at)  # type: ignore[arg-type]

    def live_pages(self, size: int = _GROUP) -> AsyncGenerator[list[str]]:
        """The ids of the sessions that are live."""
        return session_id_pages(self._connections.client, self._live, size=size)

    async def lacking(self, session_ids: Sequence[str]) -> list[str]:
        """Those of them that were not rebuilt."""
        known = await self._many(("EXISTS", self._keys.session(each)) for each in session_ids)
        return [each for each, there in zip(session_ids, known, strict=True) if not there]

    async def event_digests(self, session_ids: Sequence[str]) -> list[tuple[list[bytes], list[bytes]]]:
        """Per session the digests of its newest events, as rebuilt and as live."""
        commands: list[Command] = []
        for each in session_ids:
            commands.append(("LRANGE", self._keys.events(each), 0, -1))
            commands.append(("LRANGE", self._live.events(each), 0, -1))
        # Up to fifty events each: some at a time.
        found = await self._many(commands, group=16)
        pairs = []
        for n, session_id in enumerate(session_ids):
            rebuilt = self._digests(session_id, found[2 * n]) if self._whole else found[2 * n]
            pairs.append((rebuilt, self._digests(session_id, found[2 * n + 1])))
        return pairs

    def _digests(self, session_id: str, sealed: list[bytes]) -> list[bytes]:
        found = []
        for value in sealed:
            try:
                found.append(digest(self._cipher.open(session_id, value)))
            except (CorruptSession, WrongKey):
                found.append(b"unreadable")
        return found

    # ---- taking their place

    async def switch(self, sessions: Sequence[tuple[SessionData, float]]) -> int:
        """Puts rebuilt sessions in the place of the live ones, each in one step and for so many seconds; returns how
        many. One that is live in a later life or version stays as it is."""
        calls = [
            (
                [
                    *(self._keys.session(each), self._keys.events(each)),
                    *(self._live.session(each), self._live.events(each)),
                    *(self._keys.earlier_ids(each), self._live.earlier_ids(each)),
                ],
                [session.version, session.epoch, max(1, int(ttl_seconds * 1000)), EARLIER_IDS_MS],
            )
            for session, ttl_seconds in sessions
            if (each := session.session_id)
        ]
        return sum(await self._many_scripts(SWITCH, calls))

    async def remove(self, pairs: Sequence[Pair]) -> int:
        """Removes live sessions, unless they were written since they were looked at; returns how many."""
        calls = [
            (
                [self._live.session(each), self._live.events(each), self._live.earlier_ids(each)],
                [pair.live_version, pair.live_epoch],
            )
            for pair in pairs
            if (each := pair.session_id)
        ]
        return sum(await self._many_scripts(REMOVE, calls))

    async def drop(self) -> None:
        """Removes what is left of the copy when all its sessions are forgotten."""
        for session_id in await self.held_sessions():
            await self.drop_held(session_id)
        await self._many([("DEL", self._about), ("DEL", self._held)])

    async def close(self) -> None:
        await self._round_trips.close()
        await self._connections.close()

    def _of(self, session_id: str) -> list[str]:
        return [self._keys.session(session_id), self._keys.events(session_id)]

    def _held_key(self, session_id: str) -> str:
        return f"{self._prefix}held:{{{session_id}}}:list"

    async def _run(self, *command: Any) -> Any:
        [response] = await self._many([command])
        return response

    async def _many_scripts(self, script: Script, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        return await self._many(("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls)

    async def _many(self, commands: Iterable[Command], *, group: int = _GROUP) -> list[Any]:
        """The responses. Whole groups go over the links, for a command of its own costs more than Redis takes."""
        asked = list(commands)
        groups = [asked[n : n + group] for n in range(0, len(asked), group)]
        responses: list[list[Any]] = [[] for _ in groups]

        async def over(link: int) -> None:
            for n in range(link, len(groups), len(self._connections.links)):
                responses[n] = await self._round_trips.exchange(link, groups[n])

        async with self._alone:
            await asyncio.gather(*(over(n) for n in range(len(self._connections.links))))
        return [response for each in responses for response in each]


def digest(event: bytes) -> bytes:
    """Tells events apart."""
    return blake2b(event, digest_size=16).digest()
