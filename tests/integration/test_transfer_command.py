"""`supportstream export` and `import`: sessions moved to another pipeline, byte for byte."""

import asyncio
from collections.abc import Callable

import orjson

from tests.processes import Pipeline
from tests.recorded import Recorded, publish
from tests.topic_records import read_topic, session_store


async def test_sessions_move_to_another_pipeline(new_pipeline: Callable[..., Pipeline]) -> None:
    here, there = new_pipeline(), new_pipeline()
    sessions = [Recorded(f"s-{n}").says_much(n + 1) for n in range(20)]
    sessions.append(Recorded("s-reborn").says("grüße 你好").is_deleted().says("b"))
    await publish(here, sessions)

    lines = await asyncio.to_thread(here.must, "export")
    events = [orjson.loads(line) for line in lines.splitlines()]
    assert len(events) == sum(len(each.events) for each in sessions)
    assert {event["specversion"] for event in events} == {"1.0"}
    assert {event["subject"] for event in events} == {each.session_id for each in sessions}
    one = await asyncio.to_thread(here.must, "export", "--session", "s-3")
    assert [orjson.loads(line)["data"]["seq"] for line in one.splitlines()] == [1, 2, 3, 4]
    assert await asyncio.to_thread(here.must, "export", "--until", "1h") == ""

    file = here.directory / "sessions.jsonl"
    file.write_text(lines, encoding="utf-8")
    assert "would publish" in await asyncio.to_thread(there.must, "import", str(file))
    assert await read_topic(there.bootstrap_servers, there.topics.replies) == []
    # Twice: what comes again changes nothing.
    for _ in range(2):
        await asyncio.to_thread(there.must, "import", "--execute", str(file))
    await asyncio.to_thread(there.must, "replay", "--execute")
    store = session_store(there)
    try:
        for each in sessions:
            stored = await store.load(each.session_id)
            assert stored is not None
            assert each.session is not None
            assert stored.session.to_json() == each.session.to_json()
            assert (await store.events(each.session_id))[-1] == each.values[-1]
    finally:
        await store.close()


async def test_a_file_that_is_none_is_refused_by_its_line(new_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = new_pipeline()
    event = Recorded("s-1").says("a").values[0].decode()
    good = f'{{"specversion":"1.0","data":{event}}}'
    file = pipeline.directory / "sessions.jsonl"
    for bad, told in (
        ("{", "Line 2 is no JSON"),
        ("[]", "Line 2 is no CloudEvent"),
        ('{"specversion":"1.0","data":{"type":"turn.completed"}}', "Line 2 has no reply event"),
        (f'{{"specversion":"1.0","data":{event[:-1]},"schema_version":7}}}}', "upgrade"),
    ):
        file.write_text(f"{good}\n{bad}\n", encoding="utf-8")
        done = await asyncio.to_thread(pipeline.run, "import", "--execute", str(file))
        assert done.returncode == 1
        assert told in done.stderr, done.stderr
        assert await read_topic(pipeline.bootstrap_servers, pipeline.topics.replies) == []
