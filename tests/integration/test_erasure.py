"""Encrypted topics on real servers: what is sealed, and that a deletion leaves nothing of a session to be read."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from redis.asyncio import Redis

from ops.local.kafka import KafkaServer
from schemas.partition import home_partition
from schemas.sealed import is_sealed
from schemas.topics import topic_specs
from store.encryption import new_key
from tests.customers import ANSWER_WITHIN_S, message_id
from tests.customers import customer as customer_of
from tests.polling import eventually, wait_until
from tests.processes import SAMPLES, Pipeline, Process
from tests.topic_records import producer, read_topic

KEY = new_key()
SEALED = {
    "SESSION_ENCRYPTION_ENABLED": "true",
    "SESSION_ENCRYPTION_KEY": KEY,
    "TOPIC_ENCRYPTION_ENABLED": "true",
    "OMP_NUM_THREADS": "1",
}


def canary() -> str:
    """A word that is nowhere else."""
    return f"canary{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Sealing:
    """A pipeline that encrypts its topics, with one ingress and one worker that answers from a sample."""

    pipeline: Pipeline
    ingress: Process
    worker: Process

    @property
    def content_topics(self) -> list[str]:
        names = self.pipeline.topics
        return [names.inbound, names.replies, names.deltas, names.snapshots, names.dlq]

    async def raw_values(self) -> list[tuple[str, bytes]]:
        """Topic and value of every record that may have content."""
        return [
            (topic, record.value or b"")
            for topic in self.content_topics
            for record in await read_topic(self.pipeline.bootstrap_servers, topic)
        ]

    def exported(self) -> str:
        return self.pipeline.must("export")

    async def in_redis(self, prefix: str = "") -> bytes:
        """Everything that Redis has under the pipeline's keys, as it is there."""
        found = b""
        async with Redis.from_url(self.pipeline.redis_url) as redis:
            async for key in redis.scan_iter(f"{prefix or self.pipeline.key_prefix}*"):
                found += key + b" " + (await redis.dump(key) or b"") + b"\n"
        return found

    def in_logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.pipeline.directory.glob("*.log"))


@pytest.fixture(scope="module")
def sealing(new_pipeline: Callable[..., Pipeline]) -> Iterator[Sealing]:
    with new_pipeline(**SEALED, LOG_LEVEL="debug", ANSWER_PACE_WORDS_PER_SECOND="200") as pipeline:
        ingress, worker = pipeline.ingress(), pipeline.worker()
        pipeline.must("knowledge", "add", *[str(path) for path in SAMPLES if path.stem == "password-reset"])
        pipeline.ready()
        wait_until(lambda: worker.health()["knowledge"]["documents"] == 1, "the worker knows the sample")
        yield Sealing(pipeline, ingress, worker)


@dataclass(frozen=True)
class Talk:
    """A session over REST."""

    client: httpx.AsyncClient
    session_id: str

    async def say(self, text: str) -> dict[str, Any]:
        message = {"session_id": self.session_id, "text": text, "wait": ANSWER_WITHIN_S}
        response = await self.client.post("/api/v1/chat", json=message)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def delete(self) -> None:
        response = await self.client.delete(f"/api/v1/sessions/{self.session_id}")
        assert response.status_code == 204, response.text


@asynccontextmanager
async def talk(ingress: Process, **given: Any) -> AsyncIterator[Talk]:
    async with httpx.AsyncClient(base_url=ingress.url, timeout=ANSWER_WITHIN_S) as client:
        response = await client.post("/api/v1/sessions", json=given)
        assert response.status_code == 201, response.text
        client.headers["authorization"] = f"Bearer {response.json()['token']}"
        yield Talk(client, response.json()["session_id"])


async def leave_a_dead_letter(pipeline: Pipeline, session_id: str, word: str) -> None:
    """A change that no attempt can make: with it the metadata would be too large."""
    async with producer(pipeline.bootstrap_servers) as client:
        for name in ("first", "second"):
            changes = {"metadata": {name: word + "x" * 3_000}}
            body = {"type": "session.update", "id": message_id(), "changes": changes}
            home = home_partition(session_id, 12)
            await client.send_and_wait(pipeline.topics.inbound, orjson.dumps(body), session_id.encode(), home)


def replay(pipeline: Pipeline, *arguments: str, **settings: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(pipeline.must("replay", "--json", *arguments, **settings))
    return found


async def test_a_deleted_session_can_be_read_nowhere_and_all_others_can(sealing: Sealing) -> None:
    pipeline, word, other_word = sealing.pipeline, canary(), canary()
    async with (
        talk(sealing.ingress, user_id=f"user-{word}", metadata={"note": word}) as gone,
        talk(sealing.ingress, user_id=f"user-{other_word}") as other,
    ):
        for session, text in ((gone, word), (other, other_word), (gone, word)):
            await session.say(f"How do I reset my password? {text}")
        await other.say("How do I reset my password?")
        replay(pipeline, "--snapshot")
        await gone.say(f"And now? {word}")

        values = await sealing.raw_values()
        in_clear = {topic for topic, value in values if value and not is_sealed(value) and b"#" not in value[:1]}
        assert in_clear <= {pipeline.topics.snapshots}, "only what snapshots cover is in clear"
        assert {topic for topic, value in values if is_sealed(value)} >= {
            pipeline.topics.inbound,
            pipeline.topics.replies,
            pipeline.topics.deltas,
            pipeline.topics.snapshots,
        }
        before = b"".join(value for _, value in values) + await sealing.in_redis()
        for each in (word, other_word):
            assert each.encode() not in before
            assert each in sealing.exported(), "whoever has the key can read it"
        offsets = [len(await read_topic(pipeline.bootstrap_servers, topic)) for topic in sealing.content_topics[:2]]

        await gone.delete()

        assert word not in sealing.exported()
        assert other_word in sealing.exported()
        assert word.encode() not in await sealing.in_redis()
        assert word not in sealing.in_logs()
        told = pipeline.run("explain", gone.session_id)
        assert word not in told.stdout
        assert [len(await read_topic(pipeline.bootstrap_servers, topic)) for topic in sealing.content_topics[:2]] == [
            count + 1 for count in offsets
        ], "what is erased keeps its place"

        # Into another, empty store: keys come from the topic alone.
        elsewhere = f"{pipeline.key_prefix}elsewhere:"
        rebuilt = replay(pipeline, "--execute", REDIS_SESSION_KEY_PREFIX=elsewhere)
        assert rebuilt["records_erased"] > 0
        assert word.encode() not in await sealing.in_redis(elsewhere)
        again = orjson.loads(
            pipeline.must(
                "sessions", "show", other.session_id, "--turns", "50", "--json", REDIS_SESSION_KEY_PREFIX=elsewhere
            )
        )
        assert again == orjson.loads(pipeline.must("sessions", "show", other.session_id, "--turns", "50", "--json"))
        missing = pipeline.run("sessions", "show", gone.session_id, REDIS_SESSION_KEY_PREFIX=elsewhere)
        assert "There is no session" in missing.stderr
        assert not replay(pipeline, "--verify")["differs"]
        assert not replay(pipeline, "--verify", "--from-start")["differs"]
        pipeline.must("verify", "--wait", "20")


async def test_dead_letters_are_sealed_can_be_sent_back_and_are_erased(sealing: Sealing) -> None:
    pipeline, word = sealing.pipeline, canary()
    async with talk(sealing.ingress) as session:
        await session.say("Hello?")
        await leave_a_dead_letter(pipeline, session.session_id, word)
        letters: list[dict[str, Any]] = []

        def one_came() -> bool:
            letters[:] = orjson.loads(pipeline.must("dlq", "list", "--session", session.session_id, "--json"))
            return len(letters) == 1

        wait_until(one_came, "the dead letter")
        assert word in pipeline.must("dlq", "show", letters[0]["place"])
        raw = await read_topic(pipeline.bootstrap_servers, pipeline.topics.dlq)
        assert all(word.encode() not in (record.value or b"") for record in raw)
        await session.delete()
        assert "erased" in pipeline.must("dlq", "show", letters[0]["place"])
        assert "erased: its session was deleted" in pipeline.must("dlq", "redrive", "--session", session.session_id)


async def test_what_was_on_its_way_while_the_session_was_deleted_is_answered_as_erased(sealing: Sealing) -> None:
    pipeline = sealing.pipeline
    async with customer_of(sealing.ingress) as customer:
        session_id, token = customer.welcome["session_id"], customer.welcome["token"]
        reply = await customer.ask("How do I reset my password?")
        assert reply["type"] == "reply"
        inbound = await read_topic(pipeline.bootstrap_servers, pipeline.topics.inbound)
        sealed = next(record for record in inbound if record.key == session_id.encode() and is_sealed(record.value))
        async with httpx.AsyncClient(base_url=sealing.ingress.url, timeout=ANSWER_WITHIN_S) as client:
            headers = {"authorization": f"Bearer {token}"}
            assert (await client.delete(f"/api/v1/sessions/{session_id}", headers=headers)).status_code == 204
        # As an ingress would that sealed it a moment before it heard of the deletion.
        late = [(name, b"late" if name == "ce_id" else value) for name, value in sealed.headers]
        async with producer(pipeline.bootstrap_servers) as client_of_kafka:
            await client_of_kafka.send_and_wait(
                pipeline.topics.inbound, sealed.value, sealed.key, sealed.partition, headers=late
            )

        async def answered() -> bool:
            return any(frame.get("id") == "late" for frame in customer.frames)

        await eventually(answered, "the sender hears of it")
        again = await customer.ask("And now?")
        assert again["type"] == "reply"
        assert not replay(pipeline, "--verify", "--session", session_id)["differs"]


async def test_erase_finds_all_of_a_user_and_says_what_is_left_in_plain_text(sealing: Sealing) -> None:
    pipeline, word = sealing.pipeline, canary()
    user, plain_session = f"user-{word}", f"shop:{secrets.token_hex(6)}"
    async with talk(sealing.ingress, user_id=user) as live, talk(sealing.ingress, user_id=user) as expired:
        await live.say(f"Mine? {word}")
        await expired.say(f"Mine, too? {word}")
        async with producer(pipeline.bootstrap_servers) as client:
            body = orjson.dumps({"text": f"From a shop: {word}", "user_id": user})
            await client.send_and_wait(pipeline.topics.inbound, body, plain_session.encode())
        wait_until(lambda: pipeline.run("sessions", "show", plain_session).returncode == 0, "the shop is answered")
        async with Redis.from_url(pipeline.redis_url) as redis:
            # Its time is over.
            name = f"{pipeline.key_prefix}{{{expired.session_id}}}"
            assert await redis.delete(name, f"{name}:events") == 2

        found = orjson.loads(pipeline.must("erase", "--user", user, "--json"))
        assert not found["executed"]
        assert {each["session_id"]: each["live"] for each in found["sessions"]} == {
            live.session_id: True,
            expired.session_id: False,
            plain_session: True,
        }
        assert word in sealing.exported()

        done = pipeline.must("erase", "--user", user, "--execute")
        assert "erased 3 sessions (2 live)" in done
        assert f"1 records in plain text stay in {pipeline.topics.inbound}: gone by" in done
        assert word not in sealing.exported()
        assert word.encode() not in await sealing.in_redis()
        left = orjson.loads(pipeline.must("erase", "--user", user, "--json"))
        assert [each["session_id"] for each in left["sessions"]] == [plain_session], "only the plain record names it"
        assert not replay(pipeline, "--verify")["differs"]


async def test_the_master_key_rotates_without_touching_the_topics(new_pipeline: Callable[..., Pipeline]) -> None:
    new, word = new_key(), canary()
    with new_pipeline(**SEALED, GENERATOR="null") as pipeline:
        ingress = pipeline.ingress()
        pipeline.worker()
        pipeline.ready()
        async with talk(ingress) as session:
            await session.say(word)
        before = [record.value for record in await read_topic(pipeline.bootstrap_servers, pipeline.topics.replies)]
        both = {"SESSION_ENCRYPTION_KEY": f"{new},{KEY}"}
        survey = orjson.loads(pipeline.must("keys", "rotate", "--json", **both))["session_keys"]
        assert (survey["keys"], survey["outdated"], survey["locked"]) == (1, 1, 0)
        report = orjson.loads(pipeline.must("keys", "rotate", "--execute", "--json", **both))["session_keys"]
        assert (report["rewrapped"], report["already"], report["unreadable"]) == (1, 0, 0)
        alone = {"SESSION_ENCRYPTION_KEY": new}
        assert word in pipeline.must("export", **alone)
        # And by a store that knows nothing yet.
        assert word in pipeline.must("export", **alone, REDIS_SESSION_KEY_PREFIX=f"{pipeline.key_prefix}anew:")
        after = [record.value for record in await read_topic(pipeline.bootstrap_servers, pipeline.topics.replies)]
        assert before == after
        assert word not in pipeline.run("export").stdout, "the old key opens nothing any more"


async def alter_topic(servers: str, topic: str, config: dict[str, str]) -> None:
    """What `config` doesn't name goes back to the broker's default."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)])
    finally:
        await admin.close()


def log_files(kafka: KafkaServer, topic: str) -> Sequence[Path]:
    return sorted((kafka.data / f"{topic}-0").glob("*.log"))


async def test_a_destroyed_key_goes_from_the_files_of_the_broker(
    kafka: KafkaServer, new_pipeline: Callable[..., Pipeline]
) -> None:
    """With the topic's own settings, but for the times: an hour and six of them are a second and two here."""
    with new_pipeline(**SEALED, GENERATOR="null") as pipeline:
        spec = next(each for each in topic_specs(pipeline.topics, 12) if each.name == pipeline.topics.keys)
        config = {**spec.configs, "segment.ms": "1000", "max.compaction.lag.ms": "2000"}
        await alter_topic(pipeline.bootstrap_servers, spec.name, config)
        ingress = pipeline.ingress()
        pipeline.worker()
        pipeline.ready()
        async with talk(ingress) as session, talk(ingress) as other:
            await session.say("Hello?")
            await other.say("Hello?")
            records = await read_topic(pipeline.bootstrap_servers, pipeline.topics.keys)
            keys = {record.key: record.value for record in records if record.value and b"#" not in record.key}
            [mine] = [value for key, value in keys.items() if key.startswith(session.session_id.encode())]
            [kept] = [value for key, value in keys.items() if key.startswith(other.session_id.encode())]

            def on_disk(value: bytes) -> bool:
                return any(value in path.read_bytes() for path in log_files(kafka, pipeline.topics.keys))

            assert on_disk(mine)
            await session.delete()
            deadline = time.monotonic() + 60
            while on_disk(mine) and time.monotonic() < deadline:
                # Somebody else begins: the segment that holds the tombstone is closed.
                async with talk(ingress) as another:
                    await another.say("Hello?")
            assert not on_disk(mine)
            assert on_disk(kept)
