"""`supportstream keys` against a real Redis, and what the processes say of a key that is missing or none."""

import asyncio
import os
import pty
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from ops.local.ports import LOOPBACK
from ops.local.process import ServerProcess
from ops.local.redis import RedisServer
from store.encryption import SessionCipher, new_key
from store.redis.connect import RedisSettings
from tests.contract.sealed import Sealed, say
from tests.integration.test_commands import one_line
from tests.polling import wait_until
from tests.processes import SUPPORTSTREAM, Pipeline

OLD, NEW, LOST = (new_key() for _ in range(3))
OLD_ID, NEW_ID, LOST_ID = (SessionCipher([key]).key_id for key in (OLD, NEW, LOST))
ON = {"SESSION_ENCRYPTION_ENABLED": "true"}
BOTH_KEYS = {**ON, "SESSION_ENCRYPTION_KEY": f"{NEW},{OLD}"}
NOT_LOOKED_AT = (
    "session keys were not looked at: KAFKA_BOOTSTRAP_SERVERS is not set, or there is no keys topic. "
    "Where topics were ever encrypted, keep the old key"
)
NEW_KEY = {**ON, "SESSION_ENCRYPTION_KEY": NEW}


@pytest.fixture
def pipeline(redis_server: RedisServer, tmp_path: Path) -> Pipeline:
    """Without Kafka, keys are a matter of Redis alone."""
    return Pipeline("", redis_server.url, tmp_path)


def store_sessions(pipeline: Pipeline, count: int, *keys: str, name: str = "s", turns: int = 2) -> None:
    """Sessions `{name}0` to `{name}{count - 1}`, sealed with the first of `keys`; without one in plain text."""

    async def talk() -> None:
        redis = Sealed(RedisSettings(pipeline.redis_url), pipeline.key_prefix)
        async with redis.stack:
            store = redis.store(*keys)
            for turn in range(turns):
                await asyncio.gather(*(say(store, f"{name}{n}", f"turn {turn}") for n in range(count)))

    run(talk())


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def assert_readable(pipeline: Pipeline, count: int, key: str, *, turns: int = 2) -> None:
    """Every session has all its turns, with this key alone."""

    async def read() -> None:
        redis = Sealed(RedisSettings(pipeline.redis_url), pipeline.key_prefix)
        async with redis.stack:
            store = redis.store(key)
            for n in range(count):
                session = await store.get(f"s{n}")
                assert session is not None
                assert session.message_count == turns
                assert len(await store.events(f"s{n}")) == turns

    run(read())


def test_generate_prints_a_key_and_nothing_else(pipeline: Pipeline) -> None:
    printed = {pipeline.must("keys", "generate") for _ in range(2)}
    assert len(printed) == 2
    for line in printed:
        assert line == line.strip() + "\n"
        SessionCipher([line.strip()])
    done = pipeline.run("keys", "generate", **ON, SESSION_ENCRYPTION_KEY="the one that this shall replace")
    assert done.returncode == 0, "a wrong setting is what it is asked for"
    assert done.stderr == ""


def test_rotate_says_what_it_would_do_and_does_it(pipeline: Pipeline) -> None:
    store_sessions(pipeline, 30, OLD)
    store_sessions(pipeline, 3, name="plain-")
    store_sessions(pipeline, 2, NEW, name="new-")

    shown = pipeline.must("keys", "rotate", **BOTH_KEYS)
    assert [line.split() for line in shown.splitlines()] == [
        ["key", "sessions", "session", "keys"],
        [NEW_ID, "2", "-", "encrypts"],
        [OLD_ID, "30", "-", "only", "decrypts"],
        ["none", "3", "-", "plain", "text"],
        NOT_LOOKED_AT.split(),
        f"would encrypt 33 of 35 sessions anew with key {NEW_ID}; add --execute to do it".split(),
    ]
    told = orjson.loads(pipeline.must("keys", "rotate", "--json", **BOTH_KEYS))
    assert told == {
        "executed": False,
        "key_id": NEW_ID,
        "sessions": 35,
        "by_key": {NEW_ID: 2, OLD_ID: 30, "plain": 3},
        "outdated": 33,
        "locked": 0,
        "session_keys": None,
    }

    done = pipeline.run("keys", "rotate", "--execute", **BOTH_KEYS)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == f"encrypted 33 sessions anew with key {NEW_ID}; 2 were so already, 0 expired meanwhile"
    assert second == NOT_LOOKED_AT
    assert_readable(pipeline, 30, NEW)
    again = pipeline.must("keys", "rotate", **NEW_KEY)
    assert f"nothing to do: key {NEW_ID} alone opens all 35 sessions" in again
    assert orjson.loads(pipeline.must("keys", "rotate", "--execute", "--json", **NEW_KEY)) == {
        "executed": True,
        "key_id": NEW_ID,
        "rotated": 0,
        "already": 35,
        "unreadable": 0,
        "expired": 0,
        "unreadable_ids": [],
        "session_keys": None,
    }


def test_a_session_that_no_key_opens_is_named_and_the_others_are_rotated(pipeline: Pipeline) -> None:
    store_sessions(pipeline, 20, OLD)
    store_sessions(pipeline, 12, LOST, name="lost-")
    shown = pipeline.must("keys", "rotate", **BOTH_KEYS)
    assert [LOST_ID, "12", "-", "not", "in", "SESSION_ENCRYPTION_KEY"] in [line.split() for line in shown.splitlines()]
    assert "12 of 32 sessions would be left as they are: SESSION_ENCRYPTION_KEY lacks their key" in shown
    assert "would encrypt 20 of 32 sessions" in shown
    done = pipeline.run("keys", "rotate", "--execute", **BOTH_KEYS)
    line = one_line(done, 1, "12 of the sessions", "left as they are", "lost-", "and 2 more")
    assert line.count("lost-") == 10
    assert done.stdout.startswith("encrypted 20 sessions")
    assert_readable(pipeline, 20, NEW)


def test_a_rotation_that_is_killed_goes_on_the_next_time(pipeline: Pipeline) -> None:
    count, turns = 1_000, 20
    store_sessions(pipeline, count, OLD, turns=turns)
    client = redis.Redis.from_url(pipeline.redis_url)

    def rotated() -> int:
        with client.pipeline(transaction=False) as asked:
            for n in range(count):
                asked.hget(f"{pipeline.key_prefix}{{s{n}}}", "key")
            return sum(key == NEW_ID.encode() for key in asked.execute())

    log_path = pipeline.directory / "rotation.log"
    command = [*SUPPORTSTREAM, "keys", "rotate", "--execute"]
    rotation = ServerProcess("rotation", command, log_path=log_path, env=pipeline.environment(**BOTH_KEYS))
    rotation.start()
    wait_until(lambda: rotated() > 0, "the rotation has begun")
    rotation.kill()
    done = rotated()
    assert 0 < done < count, "the kill came in the middle"
    assert rotated() == done

    report = orjson.loads(pipeline.must("keys", "rotate", "--execute", "--json", **BOTH_KEYS))
    assert (report["rotated"], report["already"], report["unreadable"]) == (count - done, done, 0)
    assert_readable(pipeline, count, NEW, turns=turns)


def test_a_terminal_sees_a_bar_with_the_time_left(pipeline: Pipeline) -> None:
    store_sessions(pipeline, 5, OLD)
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*SUPPORTSTREAM, "keys", "rotate", "--execute"],
        env={**pipeline.environment(**BOTH_KEYS), "TERM": "xterm", "COLUMNS": "120"},
        cwd=pipeline.directory,
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    seen = os.read(ours, 65_536).decode()
    os.close(ours)
    assert done.stdout.startswith(b"encrypted 5 sessions")
    assert "Encrypting sessions anew" in seen
    assert "5/5" in seen


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["SESSION_ENCRYPTION_ENABLED"]),
        (ON, ["SESSION_ENCRYPTION_KEY", "supportstream keys generate"]),
        ({**ON, "SESSION_ENCRYPTION_KEY": "secret-but-no-key"}, ["SESSION_ENCRYPTION_KEY", "keys generate"]),
        ({**BOTH_KEYS, "REDIS_URL": ""}, ["REDIS_URL"]),
    ],
    ids=["encryption off", "no key", "what is no key", "no Redis"],
)
def test_rotate_without_what_it_needs_is_a_usage_error(
    pipeline: Pipeline, settings: dict[str, str], words: list[str]
) -> None:
    line = one_line(pipeline.run("keys", "rotate", **settings), 2, *words)
    assert "secret" not in line


def test_rotate_without_redis_answering_is_one_line(pipeline: Pipeline) -> None:
    one_line(pipeline.run("keys", "rotate", **BOTH_KEYS, REDIS_URL=f"redis://{LOOPBACK}:1/0"), 1, "does not answer")


@pytest.mark.parametrize("command", ["ingress", "worker"])
@pytest.mark.parametrize("key", ["", "secret-but-no-key", f"{NEW},secret-but-no-key"], ids=["none", "no key", "second"])
def test_a_process_that_shall_encrypt_does_not_start_without_a_key(pipeline: Pipeline, command: str, key: str) -> None:
    done = pipeline.run(command, **ON, SESSION_ENCRYPTION_KEY=key, KAFKA_BOOTSTRAP_SERVERS=f"{LOOPBACK}:1")
    line = one_line(done, 2, "SESSION_ENCRYPTION_KEY", "supportstream keys generate")
    assert "secret" not in line
    assert NEW not in line
