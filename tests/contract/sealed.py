"""Stores over one Redis, each with the keys that a test gives it, and conversations as people have them."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from schemas.fold import evolve, fact_fields
from schemas.identity import turn_id
from schemas.inbound import Changes
from schemas.replies import Citation, CustomerMessage, Reply, TurnCompleted, encode_reply
from schemas.session import SessionData
from store.encryption import SessionCipher
from store.protocol import Applied, Fence, SessionStore, Stale
from store.redis import RedisSessionStore
from store.redis.connect import RedisConnections, RedisSettings, connect
from store.redis.rotation import KeyRotation

AT = "2026-01-02T03:04:05.678Z"


@dataclass
class Sealed:
    """One Redis. What it made is closed with `stack`."""

    settings: RedisSettings
    prefix: str
    ttl_seconds: float = 60.0
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def store(self, *keys: str) -> RedisSessionStore:
        """Without `keys` it encrypts nothing."""
        cipher = SessionCipher(keys) if keys else None
        connections = connect(self.settings)
        made = RedisSessionStore(connections, ttl_seconds=self.ttl_seconds, key_prefix=self.prefix, cipher=cipher)
        self.stack.push_async_callback(made.close)
        return made

    def rotation(self, *keys: str, connections: RedisConnections | None = None) -> KeyRotation:
        connections = connections or connect(self.settings)
        made = KeyRotation(connections, key_prefix=self.prefix, cipher=SessionCipher(keys))
        self.stack.push_async_callback(made.close)
        return made

    def client(self) -> Any:
        """A plain client, for what the store doesn't do."""
        connections = connect(self.settings)
        self.stack.push_async_callback(connections.close)
        return connections.client

    def session_key(self, session_id: str) -> str:
        return f"{self.prefix}{{{session_id}}}"

    def events_key(self, session_id: str) -> str:
        return f"{self.prefix}{{{session_id}}}:events"

    async def everything(self) -> dict[bytes, list[bytes]]:
        """All that Redis holds under the prefix: each key with its values, a hash's field names among them."""
        client, found = self.client(), {}
        async for key in client.scan_iter(match=f"{self.prefix}*"):
            match await client.type(key):
                case b"hash":
                    fields: Mapping[bytes, bytes] = await client.hgetall(key)
                    found[key] = [part for item in sorted(fields.items()) for part in item]
                case b"list":
                    found[key] = await client.lrange(key, 0, -1)
                case b"string":
                    found[key] = [await client.get(key)]
                case other:
                    raise AssertionError(f"{key!r} is a {other!r}")
        return found


async def say(store: SessionStore, session_id: str, text: str, *, mark: str = "", token: int = 1) -> SessionData:
    """A message and its reply, written as a worker writes them. `mark` is in all that is somebody's own."""
    while True:
        stored = await store.load(session_id)
        before = stored.session if stored else None
        event = _turn(before, session_id, text, mark)
        after = evolve(before, event)
        outcome = await store.commit_turn(
            after,
            expected_version=before.version if before else 0,
            event_id=event.id,
            fence=Fence("partition", token),
            reply=encode_reply(event),
        )
        if isinstance(outcome, Applied):
            return after
        assert isinstance(outcome, Stale), outcome


def _turn(before: SessionData | None, session_id: str, text: str, mark: str) -> TurnCompleted:
    inbound_id = f"{text} {before.seq + 1 if before else 1}"
    event_id = turn_id(session_id, inbound_id)
    return TurnCompleted(
        **fact_fields(event_id, session_id, inbound_id, None, before, 1_000, AT),
        actor="agent",
        message=CustomerMessage(
            id=inbound_id, text=f"{text}{mark}", user_id=f"user{mark}", metadata={"address": f"street{mark}"}
        ),
        reply=Reply(
            text=f"Answer to {text}{mark}",
            citations=[Citation(doc_id="d", title=f"title{mark}", passage=f"passage{mark}", score=1.0)],
            generator="scripted",
        ),
        changes=Changes(
            thread_id=f"thread{mark}", metadata={"order": f"number{mark}"}, fingerprint_hash=f"fingerprint{mark}"
        ),
    )
