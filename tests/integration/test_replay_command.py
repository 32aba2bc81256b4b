"""`supportstream replay` on real Kafka and Redis: what it says, what it does, what it leaves alone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psutil
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from redis.asyncio import Redis

from ops.cli import replay as replay_command
from ops.errors import OpsError
from ops.local.process import ServerProcess
from ops.replay import reading
from ops.replay.outcome import Outcome
from ops.replay.selection import Selection
from ops.settings import load_settings
from schemas.inbound import Changes
from schemas.partition import home_partition
from schemas.replies import SessionDeleted
from schemas.session import RECENT_EVENTS, SessionData
from store.errors import StoreUnavailable
from store.protocol import Applied, Fence, Restorable
from store.redis import RedisSessionStore
from store.redis.working_copy import Step, WorkingCopy
from tests.polling import eventually
from tests.processes import SUPPORTSTREAM, Pipeline
from tests.recorded import Recorded, publish, tampered
from tests.topic_records import producer, session_on, session_store

TTL_S = 86_400.0


@pytest.fixture
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Pipeline:
    return new_pipeline(REDIS_SESSION_TTL_SECONDS=f"{TTL_S:.0f}")


def replay(pipeline: Pipeline, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(pipeline.must("replay", "--json", *arguments))
    return found


async def rebuild(pipeline: Pipeline, *, execute: bool = True, **selection: Any) -> Outcome:
    """What the command does, in this process."""
    settings = load_settings(
        kafka_bootstrap_servers=pipeline.bootstrap_servers,
        redis_url=pipeline.redis_url,
        topic_prefix=pipeline.topics.prefix,
        redis_session_key_prefix=pipeline.key_prefix,
        redis_session_ttl_seconds=int(TTL_S),
    )
    how = replay_command.How(execute=execute, snapshot=False, from_start=False)
    outcome, _ = await replay_command.rebuild(settings, Selection(**selection), how)
    return outcome


@asynccontextmanager
async def store_of(pipeline: Pipeline) -> AsyncIterator[RedisSessionStore]:
    store = session_store(pipeline)
    try:
        yield store
    finally:
        await store.close()


async def put(store: RedisSessionStore, each: Recorded, ttl_seconds: float = TTL_S) -> None:
    """As it is when its worker has committed its last turn."""
    assert each.session is not None
    fence = Fence("partition", await store.next_fence())
    whole = Restorable(each.session, each.events[-1].id, each.values[-RECENT_EVENTS:], ttl_seconds)
    assert await store.restore([whole], fence) == [Applied()]


async def assert_rebuilt(pipeline: Pipeline, conversations: list[Recorded]) -> None:
    """R: state and newest events, byte for byte."""
    async with store_of(pipeline) as store:
        for each in conversations:
            stored = await store.load(each.session_id)
            assert stored is not None, each.session_id
            assert each.session is not None
            assert stored.session.to_json() == each.session.to_json()
            begins = [n for n, event in enumerate(each.events) if event.seq == 1 or isinstance(event, SessionDeleted)]
            begin = begins[-1]
            assert list(await store.events(each.session_id)) == each.values[begin:][-RECENT_EVENTS:]


async def keys(pipeline: Pipeline, pattern: str = "*") -> set[bytes]:
    async with Redis.from_url(pipeline.redis_url) as redis:
        return {key async for key in redis.scan_iter(match=f"{pipeline.key_prefix}{pattern}")}


async def test_a_dry_run_says_what_is_missing_and_execute_creates_it(pipeline: Pipeline) -> None:
    sessions = [Recorded(f"s-{n}").says_much(n + 1) for n in range(60)]
    sessions.append(Recorded("s-reborn").says("a").is_deleted().says("b"))
    sessions.append(Recorded("s-deleted").says("a").is_deleted())
    await publish(pipeline, sessions)

    found = await asyncio.to_thread(replay, pipeline)
    assert found["sessions"]["created"] == len(sessions)
    assert not found["executed"]
    assert await keys(pipeline) == set(), "a dry run leaves nothing behind"

    found = await asyncio.to_thread(replay, pipeline, "--execute")
    assert found["switched"] == len(sessions)
    await assert_rebuilt(pipeline, sessions)
    assert await keys(pipeline, "replay*") == set()

    shown = await asyncio.to_thread(pipeline.must, "replay", "--verify")
    assert f"{len(sessions)}  sessions are as the topics say" in shown


async def test_times_to_live_come_out_as_they_would_be_and_what_expired_stays_gone(pipeline: Pipeline) -> None:
    now = datetime.now(UTC)
    hours = Recorded("s-hours-ago", began=now - timedelta(hours=23)).says("a")
    days = Recorded("s-days-ago", began=now - timedelta(days=2)).says("a")
    brief = Recorded("s-brief", began=now - timedelta(seconds=100)).says("a", changes=Changes(ttl_seconds=90))
    long = Recorded("s-long", began=now - timedelta(days=2)).says("a", changes=Changes(ttl_seconds=7 * 86_400))
    await publish(pipeline, [hours, days, brief, long])

    outcome = await rebuild(pipeline)
    assert (outcome.kinds["created"], outcome.kinds["expired"]) == (2, 2)
    await assert_rebuilt(pipeline, [hours, long])
    async with store_of(pipeline) as store, Redis.from_url(pipeline.redis_url) as redis:
        assert not await store.exists("s-days-ago")
        assert not await store.exists("s-brief")
        for session_id, left in (("s-hours-ago", 3_600), ("s-long", 5 * 86_400)):
            for key in (f"{{{session_id}}}", f"{{{session_id}}}:events"):
                assert abs(await redis.ttl(pipeline.key_prefix + key) - left) < 60


async def test_sessions_that_ended_long_ago_don_t_pile_up_in_redis(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded memory: a topic of many days needs room for those that live at the same time."""
    now = datetime.now(UTC)
    same_home = [each for n in range(1_000) if home_partition(each := f"s-{n}", 12) == 0][:30]
    days = [
        Recorded(each, began=now - timedelta(days=30 - n, hours=1)).says_much(8) for n, each in enumerate(same_home)
    ]
    steady = Recorded(session_on([1]), began=now - timedelta(days=30))
    for _ in range(60):
        steady.says("still here", after_seconds=43_000)
    for day in days:
        await publish(pipeline, [day])
    await publish(pipeline, [steady])
    monkeypatch.setattr(reading, "_BATCH_RECORDS", 8)
    most = 0
    write = WorkingCopy.write

    async def counting(copy: WorkingCopy, steps: Sequence[Step]) -> list[bool]:
        nonlocal most
        written = await write(copy, steps)
        most = max(most, len(await keys(pipeline, "replay*:{*}")))
        return written

    monkeypatch.setattr(WorkingCopy, "write", counting)
    outcome = await rebuild(pipeline)
    assert most <= 6, f"{most} sessions were kept at once"
    assert outcome.switched == 1
    await assert_rebuilt(pipeline, [steady])


async def test_a_session_that_was_tampered_with_is_shown_field_by_field_and_put_right(pipeline: Pipeline) -> None:
    good, bad, events = (Recorded(each).says_much(3) for each in ("s-good", "s-bad", "s-events"))
    await publish(pipeline, [good, bad, events])
    async with store_of(pipeline) as store:
        await put(store, good)
        right, bad.session = bad.session, tampered(bad.session)  # type: ignore[arg-type]
        await put(store, bad)
        bad.session = right
        await put(store, events)
    async with Redis.from_url(pipeline.redis_url) as redis:
        await redis.lset(f"{pipeline.key_prefix}{{s-events}}:events", 1, "{}")

    done = await asyncio.to_thread(pipeline.run, "replay", "--verify", "--json")
    assert done.returncode == 1
    assert "differs" in done.stderr
    found = orjson.loads(done.stdout)
    assert found["sessions"] | {"same": 1, "changed": 2} == found["sessions"]
    first = {each["session_id"]: each["changes"] for each in found["first"]}
    assert first["s-bad"] == {"metadata": [{"plan": "gold"}, {}], "message_count": [10, 3]}
    assert list(first["s-events"]) == ["events"]
    shown = await asyncio.to_thread(pipeline.must, "replay")
    assert "message_count: 10 -> 3" in shown

    await asyncio.to_thread(replay, pipeline, "--execute")
    await assert_rebuilt(pipeline, [good, bad, events])


async def test_what_the_topics_never_had_is_removed_unless_it_is_new(pipeline: Pipeline) -> None:
    known = Recorded("s-known").says("a")
    stranger = Recorded("s-stranger", began=datetime.now(UTC) - timedelta(hours=1)).says("a")
    new = Recorded("s-new").says("a")
    await publish(pipeline, [known])
    async with store_of(pipeline) as store:
        for each in (known, stranger, new):
            await put(store, each)
    outcome = await rebuild(pipeline)
    assert outcome.kinds == {"same": 1, "removed": 1, "ahead": 1}
    async with store_of(pipeline) as store:
        assert await store.exists("s-known")
        assert await store.exists("s-new")
        assert not await store.exists("s-stranger")


async def test_a_newer_turn_and_a_newer_life_win(pipeline: Pipeline) -> None:
    turn, life = Recorded("s-turn").says("a"), Recorded("s-life").says_much(3)
    await publish(pipeline, [turn, life])
    life = Recorded("s-life", began=life.began + timedelta(seconds=5)).says("b")
    turn.says("b")
    async with store_of(pipeline) as store:
        await put(store, turn)
        await put(store, life)
    outcome = await rebuild(pipeline)
    assert (outcome.switched, outcome.kinds["ahead"]) == (0, 2)
    await assert_rebuilt(pipeline, [turn, life])


async def test_records_that_are_no_event_of_their_session_are_left_out_and_counted(pipeline: Pipeline) -> None:
    good, other = Recorded("s-good").says_much(2), Recorded("s-other").says("a")
    await publish(pipeline, [good])
    async with producer(pipeline.bootstrap_servers) as kafka:
        for key, value in ((b"s-good", b"{"), (b"s-good", other.values[0]), (None, good.values[0]), (b"s-good", None)):
            await kafka.send_and_wait(pipeline.topics.replies, value, key)
    outcome = await rebuild(pipeline)
    assert (outcome.records, outcome.unreadable, outcome.switched) == (6, 4, 1)
    await assert_rebuilt(pipeline, [good])


async def test_interrupted_while_it_switches_it_goes_on(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = {name: Recorded(name).says("a") for name in (f"s-{n}" for n in range(600))}
    await publish(pipeline, list(sessions.values()))
    switch, calls = WorkingCopy.switch, 0

    async def cut_off(copy: WorkingCopy, some: Sequence[tuple[SessionData, float]]) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise StoreUnavailable("Redis does not answer.")
        return await switch(copy, some)

    with monkeypatch.context() as patched:
        patched.setattr(WorkingCopy, "switch", cut_off)
        with pytest.raises(OpsError, match="it goes on where it was"):
            await rebuild(pipeline)
    async with store_of(pipeline) as store:
        there = [name for name in sessions if await store.exists(name)]
        assert 0 < len(there) < len(sessions)
        # A turn on a session that was switched already is not taken back.
        await put(store, sessions[there[0]].says("b"))

    outcome = await rebuild(pipeline)
    assert (outcome.resumed_at, outcome.records, outcome.switched) == (len(sessions), 0, len(sessions))
    await assert_rebuilt(pipeline, list(sessions.values()))


async def test_filters_select_sessions(pipeline: Pipeline) -> None:
    now = datetime.now(UTC)
    first, second = session_on([1]), session_on([2])
    old = Recorded(first, began=now - timedelta(hours=3)).says("a")
    young = Recorded(second, began=now).says("a")
    await publish(pipeline, [old, young])

    hour_ago = now - timedelta(hours=1)
    for selection, expected in (
        ({"sessions": frozenset({first})}, [first]),
        ({"users": frozenset({f"u-{second}"})}, [second]),
        ({"partitions": frozenset({1})}, [first]),
        ({"since": hour_ago}, [second]),
        ({"until": hour_ago}, [first]),
        ({"since": hour_ago, "sessions": frozenset({first})}, []),
    ):
        outcome = await rebuild(pipeline, execute=False, **selection)
        assert [each.session_id for each in outcome.first] == expected, selection
    shown = await asyncio.to_thread(replay, pipeline, "--session", first, "--user", f"u-{first}", "--since", "1d")
    assert shown["sessions"]["created"] == 1
    assert "has no partition 99" in (await asyncio.to_thread(pipeline.run, "replay", "--partition", "99")).stderr
    assert (await asyncio.to_thread(pipeline.run, "replay", "--execute", "--sample", "0.5")).returncode == 2


async def test_events_in_two_partitions_since_partitions_were_added(pipeline: Pipeline) -> None:
    before = Recorded("s-moved").says_much(3)
    await publish(pipeline, [before], partition=7)
    after = Recorded("s-moved", began=before.began, events=[], session=before.session).says_much(2)
    await publish(pipeline, [after], partition=2)
    await rebuild(pipeline)
    whole = Recorded("s-moved", events=before.events + after.events, session=after.session)
    await assert_rebuilt(pipeline, [whole])


async def test_a_session_whose_beginning_is_not_retained_stays_as_it_is(pipeline: Pipeline) -> None:
    whole = Recorded("s-cut").says_much(5)
    tail = Recorded("s-cut", events=whole.events[2:], session=whole.session)
    await publish(pipeline, [tail])
    async with store_of(pipeline) as store:
        await put(store, whole)
    outcome = await rebuild(pipeline)
    assert outcome.kinds["not_retained"] == 1
    await assert_rebuilt(pipeline, [whole])


async def test_a_rebuild_from_snapshots_needs_only_what_came_after(pipeline: Pipeline) -> None:
    ended = Recorded("s-ended", began=datetime.now(UTC) - timedelta(days=2)).says("a")
    sessions = [Recorded(f"s-{n}").says_much(60 if n % 2 else 3) for n in range(10)]
    sessions.append(Recorded("s-deleted").says("a").is_deleted())
    await publish(pipeline, [*sessions, ended])
    written = await asyncio.to_thread(replay, pipeline, "--snapshot")
    assert (written["snapshots_written"], written["records"]) == (len(sessions), 5 * 63 + 3)

    await forget_replies(pipeline)
    later = [Recorded(each.session_id, began=each.began, session=each.session).says("later") for each in sessions[:4]]
    new = Recorded("s-new").says("a")
    await publish(pipeline, [*later, new])
    for each, more in zip(sessions, later, strict=False):
        each.events, each.session = each.events + more.events, more.session
    found = await asyncio.to_thread(replay, pipeline, "--execute")
    assert (found["records"], found["switched"]) == (5, len(sessions) + 1)
    await assert_rebuilt(pipeline, [*sessions, new])

    written = await asyncio.to_thread(replay, pipeline, "--snapshot")
    assert (written["snapshots_written"], written["records"]) == (5, 5)
    found = await asyncio.to_thread(replay, pipeline, "--verify")
    assert (found["records"], found["sessions"]["same"]) == (0, len(sessions) + 1)
    found = await asyncio.to_thread(replay, pipeline, "--from-start")
    assert found["sessions"]["not_retained"] == len(sessions)


async def forget_replies(pipeline: Pipeline) -> None:
    """As retention does: what is in the reply topic now is gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        places = [TopicPartition(pipeline.topics.replies, n) for n in range(12)]
        await admin.delete_records({place: RecordsToDelete(before_offset=-1) for place in places})
    finally:
        await admin.close()


async def test_killed_in_the_middle_it_goes_on(pipeline: Pipeline) -> None:
    sessions = [Recorded(f"s-{n}").says_much(30) for n in range(2_000)]
    await publish(pipeline, sessions)

    async with running_replay(pipeline) as killed:
        readers = await eventually(lambda: reading_for(killed.pid, 2), "other processes read for it")
        os.kill(killed.pid, signal.SIGKILL)
    _, alive = await asyncio.to_thread(psutil.wait_procs, readers, timeout=20)
    assert not alive, "a process that read did not end when nobody waited for it any more"
    await forget_lease(pipeline)

    async with running_replay(pipeline, "--rate", "20000") as killed:
        done = await eventually(lambda: read_so_far(pipeline), "some records are read")
        os.kill(killed.pid, signal.SIGKILL)
    assert done < 60_000, "it ended before it could be killed"
    soon = await asyncio.to_thread(pipeline.run, "replay", "--execute")
    assert soon.returncode == 1
    assert "running, or was killed just now" in soon.stderr

    await forget_lease(pipeline)
    found = await asyncio.to_thread(replay, pipeline, "--execute")
    assert found["records_read_before"] >= done
    assert found["records"] + found["records_read_before"] == 60_000
    assert found["switched"] == len(sessions)
    await assert_rebuilt(pipeline, sessions[::50])
    assert (await asyncio.to_thread(replay, pipeline, "--verify"))["sessions"]["same"] == len(sessions)


async def test_killed_while_it_compares_it_goes_on(pipeline: Pipeline) -> None:
    """The processes that share the work end with the one that was killed; what they switched stays switched."""
    sessions = {name: Recorded(name).says("a") for name in (f"s-{n}" for n in range(20_000))}
    await publish(pipeline, list(sessions.values()))
    async with running_replay(pipeline, "--processes", "2") as killed:
        members = await eventually(lambda: reading_for(killed.pid, 2), "two processes share the work")
        there = await eventually(lambda: live_sessions(pipeline), "some sessions are switched")
        os.kill(killed.pid, signal.SIGKILL)
    assert len(there) < len(sessions), "it ended before it could be killed"
    _, alive = await asyncio.to_thread(psutil.wait_procs, members, timeout=20)
    assert not alive, "a process that compared did not end when nobody waited for it any more"
    await forget_lease(pipeline)
    async with store_of(pipeline) as store:
        # A turn on a session that was switched already is not taken back.
        await put(store, sessions[there[0]].says("b"))

    found = await asyncio.to_thread(replay, pipeline, "--execute")
    assert (found["records"], found["records_read_before"]) == (0, len(sessions))
    assert found["switched"] == len(sessions)
    assert found["removed"] == 0
    assert 0 < found["sessions"]["created"] < len(sessions)
    assert await keys(pipeline, "replay*") == set()
    await assert_rebuilt(pipeline, [sessions[there[0]], *list(sessions.values())[::200]])


async def test_interrupted_while_it_removes_its_working_copy_it_begins_anew(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a working copy says nothing about which sessions there are."""
    sessions = {name: Recorded(name).says("a") for name in (f"s-{n}" for n in range(600))}
    await publish(pipeline, list(sessions.values()))
    forget, calls = WorkingCopy.forget, 0

    async def cut_off(copy: WorkingCopy, some: Sequence[str]) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise StoreUnavailable("Redis does not answer.")
        await forget(copy, some)

    with monkeypatch.context() as patched:
        patched.setattr(WorkingCopy, "forget", cut_off)
        with pytest.raises(OpsError, match="it goes on where it was"):
            await rebuild(pipeline)
    left = await keys(pipeline, "replay*:{*}")
    assert 0 < len(left) < len(sessions)
    lost = sorted(left)[0].decode().rpartition("{")[2].removesuffix("}")
    async with Redis.from_url(pipeline.redis_url) as redis:
        await redis.delete(f"{pipeline.key_prefix}{{{lost}}}", f"{pipeline.key_prefix}{{{lost}}}:events")

    outcome = await rebuild(pipeline)
    assert (outcome.resumed_at, outcome.records) == (0, len(sessions))
    assert (outcome.removed, outcome.switched) == (0, 1)
    assert (outcome.kinds["same"], outcome.kinds["created"]) == (len(sessions) - 1, 1)
    await assert_rebuilt(pipeline, list(sessions.values()))


async def live_sessions(pipeline: Pipeline) -> list[str]:
    async with Redis.from_url(pipeline.redis_url) as redis:
        found = [key async for key in redis.scan_iter(match=f"{pipeline.key_prefix}{{*}}", count=1_000)]
    return [key.decode().removeprefix(f"{pipeline.key_prefix}{{").removesuffix("}") for key in found]


@asynccontextmanager
async def running_replay(pipeline: Pipeline, *arguments: str) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(
        "replay",
        [*SUPPORTSTREAM, "replay", "--execute", *arguments],
        log_path=pipeline.directory / "replay.log",
        env=pipeline.environment(),
    )
    process.start()
    try:
        yield process
    finally:
        await asyncio.to_thread(process.kill)


async def reading_for(pid: int, count: int = 1) -> list[psutil.Process]:
    """The processes that share its work, once there are so many."""
    found = psutil.Process(pid).children()
    return found if len(found) >= count else []


async def forget_lease(pipeline: Pipeline) -> None:
    """As if some seconds had passed."""
    async with Redis.from_url(pipeline.redis_url) as redis:
        async for owner in redis.scan_iter(match=f"{pipeline.key_prefix}replay:*:owner"):
            await redis.delete(owner)


async def read_so_far(pipeline: Pipeline) -> int:
    async with Redis.from_url(pipeline.redis_url, decode_responses=True) as redis:
        read = 0
        async for about in redis.scan_iter(match=f"{pipeline.key_prefix}replay:*:about"):
            progress = await redis.hgetall(about)
            read = sum(int(value) for name, value in progress.items() if str(name).startswith("offset:"))
        return read


async def test_what_redis_may_have_forgotten_again_is_not_taken_for_what_never_was(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that reads for longer than its working copy is kept would remove live sessions."""
    async with store_of(pipeline) as store:
        each = Recorded("s-long").says_much(3)
        await publish(pipeline, [each])
        await put(store, each)
        with monkeypatch.context() as patched:
            patched.setattr("ops.replay.rebuild._TRUSTED", -1.0)
            with pytest.raises(OpsError, match="longer than the 6 hours"):
                await rebuild(pipeline)
        assert await store.get("s-long")
    async with Redis.from_url(pipeline.redis_url) as redis:
        async for about in redis.scan_iter(match=f"{pipeline.key_prefix}replay:*:about"):
            await redis.hset(about, "started_ms", 1_000)
    outcome = await rebuild(pipeline)
    assert (outcome.resumed_at, outcome.kinds["same"]) == (0, 1), "it begins anew"
