"""`supportstream dlq` against real servers: what it shows, and that what it sends back is answered once."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from aiokafka import ConsumerRecord

from schemas.partition import home_partition
from schemas.replies import ReplyEvent, TurnCompleted, decode_reply
from schemas.sealed import is_sealed
from store.encryption import new_key
from tests.customers import message_id
from tests.integration.test_commands import one_line
from tests.polling import wait_until
from tests.processes import Pipeline, Process
from tests.topic_records import producer, read_topic, session_on

PARTITIONS = 12
HOSTILE = b'{"text": "\x1b[2Jlate?'


@dataclass(frozen=True)
class Failed:
    """A pipeline whose worker had no locks and gave up on some records, and has locks now."""

    pipeline: Pipeline
    worker: Process
    sender: str
    """A session with a record that is no JSON, and one of an unknown type."""
    keyless: str
    """A session with three messages without key and id, that only a lock could answer."""
    repeated: str
    """A session whose message was sent again, with the same id, and answered then."""

    def dlq(self, *arguments: str) -> str:
        return self.pipeline.must("dlq", *arguments)

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = orjson.loads(self.dlq("list", "--json", *arguments))
        return found

    def states(self, session_id: str, *arguments: str) -> dict[str, tuple[str, str | None]]:
        """Per letter of the session what became of it, and its newer letter."""
        letters = self.listed("--session", session_id, *arguments)
        return {each["place"]: (each["state"], each["newer"]) for each in letters}

    def inbound(self) -> list[ConsumerRecord]:
        return records(self.pipeline, self.pipeline.topics.inbound)

    def replies(self, session_id: str) -> list[ReplyEvent]:
        replies = [decode_reply(record.value) for record in records(self.pipeline, self.pipeline.topics.replies)]
        return [event for event in replies if event.session_id == session_id]

    def answers(self, session_id: str) -> list[str]:
        """What the session's customer said, in the order in which it was answered."""
        turns = {event.id: event for event in self.replies(session_id)}.values()
        return [event.message.text for event in turns if isinstance(event, TurnCompleted) and event.message]


def records(pipeline: Pipeline, topic: str) -> list[ConsumerRecord]:
    return asyncio.run(read_topic(pipeline.bootstrap_servers, topic))


def publish(pipeline: Pipeline, *sent: tuple[bytes | None, bytes, int]) -> None:
    """Key, value and partition of each, with a header of the sender's."""

    async def send() -> None:
        async with producer(pipeline.bootstrap_servers) as kafka:
            for key, value, partition in sent:
                await kafka.send_and_wait(
                    pipeline.topics.inbound, value, key, partition, headers=[("origin", b"crm \xff")]
                )

    asyncio.run(send())


@pytest.fixture(scope="module")
def failed(new_pipeline: Callable[..., Pipeline]) -> Iterator[Failed]:
    with new_pipeline(GENERATOR="null") as pipeline:
        sender, keyless, repeated = (session_on(range(4)) for _ in range(3))
        again = message_id()
        without_locks = pipeline.worker(SESSION_LOCKING_ENABLED="false")
        pipeline.ready()
        publish(
            pipeline,
            (sender.encode(), HOSTILE, home_partition(sender, PARTITIONS)),
            (sender.encode(), b'{"type": "dance"}', home_partition(sender, PARTITIONS)),
            *((None, body(keyless, text), 7) for text in ("first", "second", "third")),
            (None, body(repeated, "hello", again), 7),
        )
        wait_until(lambda: len(records(pipeline, pipeline.topics.dlq)) == 6, "six dead letters")
        without_locks.server.stop(grace_s=15.0)
        worker = pipeline.worker()
        pipeline.ready()
        failed = Failed(pipeline, worker, sender, keyless, repeated)
        home = home_partition(repeated, PARTITIONS)
        publish(pipeline, (repeated.encode(), body(repeated, "hello", again), home))
        wait_until(lambda: failed.answers(repeated) == ["hello"], "the repeated message is answered")
        yield failed


def body(session_id: str, text: str, event_id: str | None = None) -> bytes:
    return orjson.dumps({"session_id": session_id, "text": text} | ({"id": event_id} if event_id else {}))


def test_list_has_each_with_its_reason_and_filters_them(failed: Failed) -> None:
    every = failed.listed()
    assert len(every) == 6
    assert [each["failed_at"] for each in every] == sorted(each["failed_at"] for each in every)
    mistakes = failed.listed("--session", failed.sender)
    assert [each["reason"] for each in mistakes] == ["bad_json", "unknown_type"]
    assert {each["attempts"] for each in mistakes} == {1}
    first = mistakes[0]
    assert first["origin"].startswith(f"{failed.pipeline.topics.inbound}:{home_partition(failed.sender, PARTITIONS)}:")
    assert "not JSON" in first["error"]

    by_reason = failed.listed("--reason", "bad_json", "--reason", "unknown_type")
    assert by_reason == mistakes
    assert len(failed.listed("--reason", "locking_disabled", "--session", failed.keyless)) == 3
    assert len(failed.listed("--since", "1h")) == 6
    assert failed.listed("--since", "2999-01-01T00:00:00Z") == []
    assert failed.listed("--until", "1h") == []
    assert failed.listed("--since", mistakes[1]["failed_at"], "--session", failed.sender) == mistakes[1:]
    assert failed.listed("--until", mistakes[1]["failed_at"], "--session", failed.sender) == mistakes[:1]

    shown = failed.dlq("list", "--session", failed.sender).splitlines()
    columns = ["place", "failed_at", "reason", "state", "session_id", "origin", "attempts", "error"]
    assert shown[0].split() == columns
    assert shown[1].split()[:4] == [first["place"], first["failed_at"], "bad_json", "waiting"]
    assert shown[1].endswith(first["error"])
    two = failed.pipeline.run("dlq", "list", "--limit", "2")
    assert len(two.stdout.splitlines()) == 3
    assert two.stderr == "these are 2 of 6; see --limit, --since\n"
    assert failed.dlq("list", "--reason", "no such reason") == ""


def test_show_has_everything_of_one(failed: Failed) -> None:
    bad, strange = failed.listed("--session", failed.sender)
    told = orjson.loads(failed.dlq("show", bad["place"], "--json"))
    letter = {name: value for name, value in bad.items() if name not in ("state", "newer")}
    assert told == {
        **letter,
        "key": failed.sender,
        "headers": [{"name": "origin", "value_base64": "Y3JtIP8="}],
        "value": HOSTILE.decode(),
    }
    shown = failed.dlq("show", bad["place"])
    assert "\x1b" not in shown, "a sender's text commands nobody's terminal"
    assert "late?" in shown
    assert ["header", "origin", "crm", "\\xff"] in [line.split() for line in shown.splitlines()]
    assert failed.dlq("show", strange["place"]).endswith('\n\n{\n  "type": "dance"\n}\n')

    dlq = ("dlq", "show")
    one_line(failed.pipeline.run(*dlq, "0:999"), 1, "no dead letter at 0:999", "supportstream dlq list")
    one_line(failed.pipeline.run(*dlq, "99:0"), 1, "no dead letter at 99:0")
    one_line(failed.pipeline.run(*dlq, "here"), 2, "PARTITION:OFFSET")


def test_a_dry_run_says_what_would_go_back_and_publishes_nothing(failed: Failed) -> None:
    before = len(failed.inbound())
    shown = failed.dlq("redrive")
    rows = [line.split() for line in shown.splitlines()]
    assert ["locking_disabled", "3", "to", failed.pipeline.topics.inbound] in rows
    assert ["locking_disabled", "1", "stay:", "answered"] in rows
    assert ["bad_json", "1", "stay:"] in [row[:3] for row in rows]
    assert ["unknown_type", "1", "stay:"] in [row[:3] for row in rows]
    assert shown.endswith("would send 3 records back; add --execute to do it; 3 stay\n")
    told = orjson.loads(failed.dlq("redrive", "--json", "--limit", "2"))
    assert (told["executed"], told["records"], told["redriven"]) == (False, 2, 0)
    skipped = [(each["reason"], each["records"]) for each in told["skipped"]]
    assert skipped == [("bad_json", 1), ("locking_disabled", 1), ("unknown_type", 1)]
    assert "nothing to send back; 2 stay" in failed.dlq("redrive", "--session", failed.sender)
    named = orjson.loads(failed.dlq("redrive", "--json", "--reason", "bad_json"))
    assert named["groups"] == [{"reason": "bad_json", "topic": failed.pipeline.topics.inbound, "records": 1}]
    assert len(failed.inbound()) == before


def test_what_is_redriven_is_answered_once_and_in_order(failed: Failed) -> None:
    """L, D, O: in the order in which it was sent; a second redrive changes nothing."""
    assert failed.answers(failed.keyless) == []
    done = failed.pipeline.run("dlq", "redrive", "--session", failed.keyless, "--execute")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("sent 3 of 3 records back; 0 stay\n")
    wait_until(lambda: failed.answers(failed.keyless) == ["first", "second", "third"], "the answers, in order")
    redriven = [record for record in failed.inbound() if "dlq.redriven" in dict(record.headers)]
    assert {record.partition for record in redriven} == {home_partition(failed.keyless, PARTITIONS)}
    assert {dict(record.headers)["origin"] for record in redriven} == {b"crm \xff"}
    assert all(not name.startswith("dlq.") or name == "dlq.redriven" for r in redriven for name, _ in r.headers)
    letters = failed.listed("--session", failed.keyless)
    places = [each["place"].encode() for each in sorted(letters, key=lambda each: int(each["origin"].split(":")[2]))]
    assert [dict(record.headers)["dlq.redriven"] for record in redriven] == places

    assert [each["state"] for each in failed.listed("--session", failed.keyless)] == ["answered"] * 3
    before = len(failed.inbound())
    again = orjson.loads(failed.dlq("redrive", "--session", failed.keyless, "--execute", "--json"))
    assert (again["executed"], again["redriven"], again["refused"]) == (True, 0, [])
    assert again["skipped"] == [{"reason": "locking_disabled", "why": "answered", "records": 3}]
    assert len(failed.inbound()) == before
    assert failed.answers(failed.keyless) == ["first", "second", "third"]


def test_what_was_answered_meanwhile_is_not_sent_again(failed: Failed) -> None:
    """D: the customer had sent the message again."""
    before = len(failed.inbound())
    [letter] = failed.listed("--session", failed.repeated)
    assert (letter["state"], letter["newer"]) == ("answered", None)
    shown = failed.dlq("redrive", "--session", failed.repeated, "--execute")
    assert shown.endswith("sent 0 of 0 records back; 1 stay\n")
    assert len(failed.inbound()) == before


def test_what_was_sent_is_never_sent_again_also_before_it_is_answered(failed: Failed) -> None:
    """L, D: a second run, or one after a crash, finds the first one's records on the topic; 40 turns later as well."""
    pipeline, session_id = failed.pipeline, session_on(range(4))
    home = home_partition(session_id, PARTITIONS)
    failed.worker.server.pause()
    try:
        letter = fail(failed, session_id, "late?")
        assert "sent 1 of 1" in failed.dlq("redrive", "--session", session_id, "--execute")
        assert failed.states(session_id) == {letter: ("redriven", None)}
        stays = failed.dlq("redrive", "--session", session_id, "--execute")
        assert "stay: sent back before, and not answered yet" in stays
    finally:
        failed.worker.server.resume()
    wait_until(lambda: failed.answers(session_id) == ["late?"], "the answer")
    publish(pipeline, *((session_id.encode(), body(session_id, f"turn {n}"), home) for n in range(40)))
    wait_until(lambda: len(failed.answers(session_id)) == 41, "forty turns more")
    assert failed.states(session_id) == {letter: ("answered", None)}
    assert "sent 0 of 0" in failed.dlq("redrive", "--session", session_id, "--execute")
    assert len([each for each in failed.inbound() if each.key == session_id.encode()]) == 41


def test_what_failed_again_is_a_new_letter_and_only_that_is_sent(failed: Failed) -> None:
    session_id = failed.sender
    older = next(each for each in failed.listed("--session", session_id) if each["reason"] == "unknown_type")
    only = ("--session", session_id, "--reason", "unknown_type")
    assert "sent 1 of 1" in failed.dlq("redrive", *only, "--execute")
    wait_until(lambda: len(failed.listed(*only)) == 2, "it fails again")
    newer = next(each for each in failed.listed(*only) if each["place"] != older["place"])
    assert newer["redrive_of"] == older["place"]
    states = failed.states(session_id, "--reason", "unknown_type")
    assert states == {older["place"]: ("failed again", newer["place"]), newer["place"]: ("waiting", None)}
    assert f"failed again: {newer['place']}" in failed.dlq("list", *only)
    planned = orjson.loads(failed.dlq("redrive", *only, "--json"))
    assert planned["records"] == 1
    [skipped] = planned["skipped"]
    assert skipped["why"].startswith("failed again")


def test_a_letter_without_its_value_is_listed_and_stays(failed: Failed) -> None:
    session_id = session_on(range(4))
    large = [("dlq.size", b"3000000"), ("dlq.digest", b"sha256:ab"), ("dlq.first_bytes", b'{"te')]
    place = fail(failed, session_id, None, large)
    assert failed.states(session_id) == {place: ("no value", None)}
    stays = failed.dlq("redrive", "--session", session_id, "--execute")
    assert "stay: has no value" in stays
    assert "publish it again from its source" in stays
    shown = failed.dlq("show", place)
    assert ["size", "3000000"] in [line.split() for line in shown.splitlines()]
    assert "(the value was too large for the dead letter topic)" in shown


def test_two_redrives_at_once_send_nothing_twice(failed: Failed) -> None:
    """D: the second finds the first in its group, or what it has sent on the topic."""
    session_id = session_on(range(4))
    for number in range(20):
        fail(failed, session_id, f"message {number}")
    with ThreadPoolExecutor() as both:
        arguments = ("dlq", "redrive", "--session", session_id, "--execute")
        ended = list(both.map(lambda _: failed.pipeline.run(*arguments), range(2)))
    for done in ended:
        if done.returncode:
            one_line(done, 1, "another redrive is running")
    if all(done.returncode for done in ended):
        failed.dlq("redrive", "--session", session_id, "--execute")
    wait_until(lambda: len(failed.answers(session_id)) == 20, "all are answered")
    sent = [dict(each.headers)["dlq.redriven"] for each in failed.inbound() if each.key == session_id.encode()]
    assert len(sent) == len(set(sent)) == 20


def fail(
    failed: Failed, session_id: str, text: str | None, added: Sequence[tuple[str, bytes]] = (), value: bytes = b""
) -> str:
    """Puts a dead letter of the session into the topic as a worker does; its place."""
    pipeline = failed.pipeline
    value = value or (body(session_id, text, message_id()) if text is not None else b"")
    headers = [
        *(("dlq.reason", b"retries_exhausted"), ("dlq.error", b"busy"), ("dlq.attempts", b"5")),
        *(("dlq.topic", pipeline.topics.inbound.encode()), ("dlq.partition", b"0"), ("dlq.offset", b"0")),
        ("dlq.failed_at", datetime.now(UTC).isoformat().encode()),
        *added,
    ]

    async def send() -> str:
        async with producer(pipeline.bootstrap_servers) as kafka:
            at = await kafka.send_and_wait(pipeline.topics.dlq, value, session_id.encode(), headers=headers)
            return f"{at.partition}:{at.offset}"

    return asyncio.run(send())


@pytest.mark.parametrize("command", ["list", "redrive"])
def test_wrong_arguments_are_usage_errors(failed: Failed, command: str) -> None:
    one_line(failed.pipeline.run("dlq", command, "--since", "yesterday"), 2, "yesterday", "2h")
    one_line(failed.pipeline.run("dlq", command, "--since", "1h", "--until", "2h"), 2, "--until 2h", "--since 1h")
    assert failed.pipeline.run("dlq", command, "--limit", "0").returncode == 2


def test_without_a_broker_or_the_topic_it_is_one_line(failed: Failed) -> None:
    nobody = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    one_line(failed.pipeline.run("dlq", "list", **nobody), 1, "127.0.0.1:1")
    one_line(failed.pipeline.run("dlq", "redrive", TOPIC_PREFIX="nothing."), 1, "nothing.dlq.v1", "topics create")


def test_with_encrypted_topics_the_fates_are_the_same(new_pipeline: Callable[..., Pipeline]) -> None:
    """D: sealed letters and replies are opened to see what became of each; what was erased says so."""
    sealing = {"SESSION_ENCRYPTION_ENABLED": "true", "SESSION_ENCRYPTION_KEY": new_key()}
    with new_pipeline(GENERATOR="null", TOPIC_ENCRYPTION_ENABLED="true", **sealing) as pipeline:
        answered, deleted = session_on(range(4)), session_on(range(4))
        without_locks = pipeline.worker(SESSION_LOCKING_ENABLED="false")
        pipeline.ready()
        publish(pipeline, *((None, body(session_id, "late?"), 7) for session_id in (answered, deleted)))
        failed = Failed(pipeline, without_locks, answered, deleted, answered)
        wait_until(lambda: len(failed.listed()) == 2, "two dead letters")
        assert all(is_sealed(record.value) for record in records(pipeline, pipeline.topics.dlq))
        without_locks.server.stop(grace_s=15.0)
        assert "sent 1 of 1" in failed.dlq("redrive", "--session", answered, "--execute")
        assert [state for state, _ in failed.states(answered).values()] == ["redriven"]
        pipeline.worker()
        pipeline.ready()
        wait_until(lambda: ("answered", None) in failed.states(answered).values(), "it is answered")
        assert "stay: answered" in failed.dlq("redrive", "--session", answered, "--execute")
        failed.dlq("redrive", "--session", deleted, "--execute")
        wait_until(lambda: ("answered", None) in failed.states(deleted).values(), "the other is answered")
        pipeline.must("sessions", "delete", deleted, "--execute")
        assert [state for state, _ in failed.states(deleted).values()] == ["erased"]
        assert "stay: erased" in failed.dlq("redrive", "--session", deleted, "--execute")
