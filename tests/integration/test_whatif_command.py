"""`supportstream whatif` on what a worker answered: every kind of difference, and nothing that it leaves behind."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from redis.asyncio import Redis

from schemas.replies import Citation, Reply, TurnCompleted
from schemas.topics import topic_specs
from tests.polling import eventually
from tests.processes import SAMPLES, Pipeline
from tests.recorded import PARTITIONS, Recorded, publish
from tests.topic_records import committed_offsets, producer

CANARY = "<script>alert('canary')</script>"
IN_THE_TOPIC = ("refunds.md", "shipping.md", "password-reset.md")
QUESTIONS = {
    "same": "How do I get my money back?",
    "changed": "How long does shipping take?",
    "newly_refused": "I forgot my password",
    "newly_answered": "Can I pay with PayPal or Google Pay?",
}


@pytest.fixture(scope="module")
def answered(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    """Four questions that a worker answered from three documents; no worker any more. Whatever the tests of this module
    do, topics end where they ended, no group is new, and the store has the same keys with the same in them."""
    with new_pipeline() as pipeline:
        pipeline.must("knowledge", "add", *(str(path) for path in SAMPLES if path.name in IN_THE_TOPIC))
        worker = pipeline.worker()
        pipeline.ready()
        asyncio.run(traffic(pipeline))
        worker.server.stop(grace_s=15.0)
        before = asyncio.run(everything(pipeline))
        replies = [end for place, end in before["ends"].items() if place.topic == pipeline.topics.replies]
        assert sum(replies) == len(QUESTIONS)
        yield pipeline
        assert asyncio.run(everything(pipeline)) == before


async def traffic(pipeline: Pipeline) -> None:
    async with producer(pipeline.bootstrap_servers) as kafka:
        for session_id, text in QUESTIONS.items():
            value = orjson.dumps({"id": f"id-{session_id}", "text": text})
            await kafka.send_and_wait(pipeline.topics.inbound, value, session_id.encode())

    async def all_committed() -> bool:
        return sum((await committed_offsets(pipeline)).values()) == len(QUESTIONS)

    await eventually(all_committed, "everything is answered")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Refunds as they are, shipping rewritten, nothing about passwords, payment methods on top."""
    directory = tmp_path_factory.mktemp("knowledge")
    samples = {path.name: path.read_text(encoding="utf-8") for path in SAMPLES}
    (directory / "refunds.md").write_text(samples["refunds.md"], encoding="utf-8")
    (directory / "shipping.md").write_text("# Shipping\n\nShipping takes 9 days, everywhere.", encoding="utf-8")
    (directory / "payment-methods.md").write_text(samples["payment-methods.md"], encoding="utf-8")
    (directory / "notes.pdf").write_bytes(b"\x00")
    return directory


async def whatif(pipeline: Pipeline, *arguments: str, **settings: str) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(
        await asyncio.to_thread(pipeline.must, "whatif", "--json", *arguments, **settings)
    )
    return document


async def test_each_answer_is_the_same_changed_new_or_gone(answered: Pipeline, documents: Path) -> None:
    found = await whatif(answered, "--knowledge", str(documents))
    by_session = {each["session_id"]: each for each in found["comparisons"]}
    assert {session_id: each["kind"] for session_id, each in by_session.items()} == {kind: kind for kind in QUESTIONS}
    assert found["counts"] == {"same": 1, "changed": 1, "newly_answered": 1, "newly_refused": 1}
    assert found["messages"] == {"found": 4, "compared": 4, "without_reply": 0, "unreadable": 0}
    assert (found["generator"], found["knowledge"]["documents"]) == ("extractive", 3)

    assert by_session["same"]["message_id"] == "id-same"
    assert by_session["same"]["question"] == QUESTIONS["same"]
    [cited] = by_session["changed"]["cited_documents"]
    assert (cited["doc_id"], cited["title"]) == ("shipping.md", "Shipping")
    assert cited["before"] != cited["after"]
    assert "3 to 5 business days" in by_session["changed"]["before"]["text"]
    assert "9 days" in by_session["changed"]["after"]["text"]
    [cited] = by_session["newly_answered"]["cited_documents"]
    assert (cited["doc_id"], cited["before"]) == ("payment-methods.md", None)
    [cited] = by_session["newly_refused"]["cited_documents"]
    assert (cited["doc_id"], cited["after"]) == ("password-reset.md", None)


async def test_the_knowledge_of_the_topic_says_what_it_said(answered: Pipeline) -> None:
    """Only the generator is asked to change, and it is the one that was; no Redis is needed."""
    found = await whatif(answered, "--generator", "extractive", REDIS_URL="redis://127.0.0.1:1/0")
    assert found["counts"] == {"same": 4, "changed": 0, "newly_answered": 0, "newly_refused": 0}
    assert found["knowledge"]["directory"] is None
    found = await whatif(answered, "--generator", "null")
    # The question that nobody could answer is no longer refused, for `null` refuses nothing.
    assert found["counts"] == {"same": 0, "changed": 3, "newly_answered": 1, "newly_refused": 0}
    assert found["knowledge"] is None


async def test_sessions_and_the_newest_messages_are_chosen(answered: Pipeline) -> None:
    found = await whatif(answered, "--generator", "null", "--session", "same", "--session", "changed")
    assert {each["session_id"] for each in found["comparisons"]} == {"same", "changed"}
    found = await whatif(answered, "--generator", "null", "--limit", "2")
    assert (found["messages"]["found"], len(found["comparisons"])) == (4, 2)
    times = [each["answered_at"] for each in (await whatif(answered, "--generator", "null"))["comparisons"]]
    assert times == sorted(times, reverse=True)
    assert [each["answered_at"] for each in found["comparisons"]] == times[:2]
    before = await asyncio.to_thread(answered.run, "whatif", "--generator", "null", "--since", "2d", "--until", "1d")
    assert (before.returncode, before.stdout) == (1, "")
    assert "No message was answered since" in before.stderr


async def test_a_person_reads_a_table_and_a_page(answered: Pipeline, documents: Path, tmp_path: Path) -> None:
    html = tmp_path / "whatif.html"
    shown = await asyncio.to_thread(answered.must, "whatif", "--knowledge", str(documents), "--html", str(html))
    assert "4 messages answered since" in shown
    assert "1  newly refused" in shown
    for heading in ("Newly refused", "Newly answered", "Changed"):
        assert heading in shown
    text = html.read_text(encoding="utf-8")
    assert all(f"{heading}: 1</h2>" in text for heading in ("Newly refused", "Newly answered", "Changed", "Same"))
    assert "Payment methods" in text


async def test_hostile_text_harms_neither_page_nor_terminal(
    new_pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    pipeline = new_pipeline(GENERATOR="null")
    conversation = Recorded("hostile").says(f"{CANARY}\x1b[31m red").says("[bold]markup[/bold]")
    turn = conversation.events[0]
    assert isinstance(turn, TurnCompleted)
    citation = Citation(doc_id=f"\x1b]0;{CANARY}", title=CANARY, passage=CANARY, score=0.5)
    reply = Reply(text=f"{CANARY}\x1b[31m", citations=[citation], generator="extractive", kb_version="v1")
    conversation.events[0] = replace(turn, reply=reply)
    await publish(pipeline, [conversation])
    async with producer(pipeline.bootstrap_servers) as kafka:
        await kafka.send_and_wait(pipeline.topics.replies, b"no event", b"hostile")
    html = tmp_path / "whatif.html"
    shown = await asyncio.to_thread(pipeline.must, "whatif", "--generator", "null", "--html", str(html))
    assert "\x1b" not in shown
    assert "[bold]markup[/bold]" in shown
    assert "Without 1 record that can't be read." in shown
    assert "<script" not in html.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Say what shall be different"),
        (("--generator", "oracle"), "GENERATOR: "),
        (("--generator", "null", "--knowledge", "."), "uses no knowledge"),
        (("--knowledge", "."), "There is no"),
        (("--generator", "null", "--since", "1h", "--until", "2h"), "is not after"),
        (("--generator", "null", "--since", "yesterday"), "is no point in time"),
        (("--generator", "null", "--html", "nowhere/page.html"), "There is no directory nowhere"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(answered: Pipeline, arguments: tuple[str, ...], words: str) -> None:
    done = answered.run("whatif", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


async def everything(pipeline: Pipeline) -> dict[str, Any]:
    """All that could be changed: topics and where they end, consumer groups with their offsets, keys of the store."""
    topics = [spec.name for spec in topic_specs(pipeline.topics, PARTITIONS)]
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    consumer = AIOKafkaConsumer(bootstrap_servers=pipeline.bootstrap_servers)
    redis = Redis.from_url(pipeline.redis_url)
    await admin.start()
    await consumer.start()
    try:
        places = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await admin.describe_topics(topics)
            for partition in topic["partitions"]
        ]
        groups = [name for name, _ in await admin.list_consumer_groups()]
        keys = sorted([key async for key in redis.scan_iter(f"{pipeline.key_prefix}*")])
        assert keys, "the store has the sessions"
        return {
            "topics": sorted(name for name in await admin.list_topics() if not is_another_s(name, pipeline)),
            "ends": await consumer.end_offsets(places),
            "groups": sorted(group for group in groups if not is_another_s(group, pipeline)),
            "committed": await admin.list_consumer_group_offsets(pipeline.group),
            "keys": {key: await redis.dump(key) for key in keys},
        }
    finally:
        await redis.aclose()
        await consumer.stop()
        await admin.close()


def is_another_s(name: str, pipeline: Pipeline) -> bool:
    """Whether a topic or a group is of another test, for they use the same broker."""
    return name.startswith("test-") and not name.startswith(pipeline.group)
