"""`supportstream explain` on real traffic."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from tests.polling import eventually
from tests.processes import Pipeline
from tests.topic_records import committed_offsets, producer, session_on

SESSION = session_on([4])


@pytest.fixture(scope="module")
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    """A message, the same again, one without an id, and a record that is no JSON."""
    with new_pipeline(GENERATOR="null") as pipeline:
        pipeline.worker()
        pipeline.ready()
        asyncio.run(traffic(pipeline))
        yield pipeline


async def traffic(pipeline: Pipeline) -> None:
    async with producer(pipeline.bootstrap_servers) as kafka:
        for value in (
            b'{"id":"m-1","text":"Is anybody there?"}',
            b'{"id":"m-1","text":"Is anybody there?"}',
            b'{"text":"And now?"}',
            b"{",
        ):
            await kafka.send_and_wait(pipeline.topics.inbound, value, SESSION.encode())

    async def all_committed() -> bool:
        return sum((await committed_offsets(pipeline)).values()) == 4

    await eventually(all_committed, "everything is committed")


def explain(pipeline: Pipeline, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(pipeline.must("explain", "--json", *arguments))
    return found


def names(story: dict[str, Any]) -> list[str]:
    return [step["name"] for step in story["steps"]]


def test_a_message_with_all_that_happened(pipeline: Pipeline) -> None:
    [story] = explain(pipeline, "m-1")
    assert (story["outcome"], story["session_id"]) == ("answered", SESSION)
    happened = ["accepted", "came again", "waited in its lane", "generated", "decided", "published"]
    # The copy may have been taken as a sign that the reply was not seen.
    assert [name for name in names(story) if name != "published again"] == happened
    assert [story] == explain(pipeline, "m-1", "--session", SESSION)
    shown = pipeline.must("explain", "m-1")
    assert "asked: Is anybody there?" in shown
    assert "dropped by its id" in shown


def test_a_session_with_its_newest_messages(pipeline: Pipeline) -> None:
    stories = explain(pipeline, SESSION)
    assert [story["outcome"] for story in stories] == ["answered", "answered", "failed"]
    assert stories[1]["question"] == "And now?"
    assert "gave up" in names(stories[2])
    assert [story["message_id"] for story in explain(pipeline, SESSION, "--turns", "1")] == [stories[2]["message_id"]]
    # A message without an id of its own goes by its place.
    assert explain(pipeline, stories[1]["message_id"]) == [stories[1]]


def test_the_page(pipeline: Pipeline) -> None:
    file = pipeline.directory / "explained.html"
    pipeline.must("explain", SESSION, "--html", str(file))
    assert file.read_text(encoding="utf-8").count("<article>") == 3


def test_what_is_nowhere_is_said(pipeline: Pipeline) -> None:
    done = pipeline.run("explain", "m-unknown")
    assert done.returncode == 1
    assert "look further back" in done.stderr
