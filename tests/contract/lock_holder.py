"""A process that holds a session's lock, so that a test can stop it in the middle (`test_paused_holder`).

`python -m tests.contract.lock_holder REDIS_URL KEY_PREFIX SESSION_ID LEASE_SECONDS turn|direct`

It says on standard output, as lines of JSON: `{"holding": token}`; what became of its write, which it begins once a
line comes in; and how its hold ended.
"""

import asyncio
import sys
from dataclasses import replace

import orjson
import structlog

from schemas.publishing import Position, Record
from store.direct import DirectSessions
from store.errors import LockLost
from store.locking import LockSettings
from store.protocol import Applied
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from store.seals import NO_KEYS
from tests.contract.sessions import commit
from workers.clock import utc_now


def say(**what: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.flush()


async def told_to_write() -> None:
    await asyncio.to_thread(sys.stdin.readline)


async def hold_for_a_turn(store: RedisSessionStore, session_id: str) -> None:
    """Writes what follows from the session as it stands by then: its version is right, only its right is old."""
    async with store.lock(session_id) as fence:
        say(holding=fence.token)
        await told_to_write()
        before = await store.get(session_id)
        assert before is not None, "the test made it"
        after = replace(before, seq=before.seq + 1, version=before.version + 1, metadata={"by": "the first holder"})
        outcome = await commit(store, after, kind="lock", token=fence.token)
        say(outcome=type(outcome).__name__, applied=outcome == Applied())


class Pausing:
    """A publisher that is stopped where a direct write has read the session and not yet written it."""

    def __init__(self) -> None:
        self.published = 0

    async def publish(self, record: Record) -> Position:
        if not self.published:
            say(holding=None)
            await told_to_write()
        self.published += 1
        return Position(record.topic, record.partition or 0, self.published)


async def hold_for_a_direct_write(store: RedisSessionStore, session_id: str) -> None:
    def now() -> tuple[int, str]:
        moment = utc_now()
        return moment.ms, moment.rfc3339

    log = Pausing()
    sessions = DirectSessions(store, log, reply_topic="support.replies.v1", partitions=12, now=now, seals=NO_KEYS)
    try:
        await sessions.update(session_id, {"metadata": {"by": "the first holder"}})
    finally:
        say(published=log.published)


async def main(url: str, prefix: str, session_id: str, lease_seconds: str, kind: str) -> None:
    store = RedisSessionStore(
        connect(RedisSettings(url)), ttl_seconds=60, key_prefix=prefix, lock=LockSettings(float(lease_seconds))
    )
    hold = {"turn": hold_for_a_turn, "direct": hold_for_a_direct_write}[kind]
    try:
        await hold(store, session_id)
    except LockLost as error:
        say(ended="LockLost", why=str(error))
    else:
        say(ended="released")
    finally:
        await store.close()


if __name__ == "__main__":
    # Standard output is for what the test reads.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
    )
    asyncio.run(main(*sys.argv[1:]))
