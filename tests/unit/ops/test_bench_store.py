"""`supportstream bench store` on a real Redis, in sizes so small that its figures say nothing about speed."""

from io import StringIO
from math import isfinite

import pytest
import uvloop
from redis.asyncio import Redis
from rich.console import Console

from ops.bench.conversations import Conversation
from ops.bench.floor_store import FloorStore
from ops.bench.measure import BenchError
from ops.bench.report import Report, store_table
from ops.bench.store import RATIOS, STORE_RATIOS, ciphers, conditions, measured_store, ratios
from ops.bench.store_memory import bytes_per_session
from ops.bench.store_writes import middle_turn
from ops.local.redis import RedisServer
from schemas.fold import evolve
from schemas.replies import decode_reply

# It measures time, and by how much the memory of the Redis server grows.
pytestmark = pytest.mark.alone

ROUNDS = 2
LONG_TURNS = 20


@pytest.fixture(scope="module")
def rounds(redis_server: RedisServer) -> list[dict[str, float]]:
    told: list[int] = []
    measured = measured_store(redis_server.url, ROUNDS, 0.01, told.append, long_turns=LONG_TURNS)
    assert told == [0, 0, 1], "before it prepares, and before each round"
    return measured


def test_each_round_has_the_same_figures_and_all_are_positive(rounds: list[dict[str, float]]) -> None:
    assert len(rounds) == ROUNDS
    assert all(figures.keys() == rounds[0].keys() for figures in rounds)
    assert all(isfinite(value) and value > 0 for figures in rounds for value in figures.values())


def test_every_ratio_divides_two_figures_of_one_round(rounds: list[dict[str, float]]) -> None:
    assert ratios(rounds, STORE_RATIOS).keys() == STORE_RATIOS.keys()
    over, under = STORE_RATIOS["commit_turn_p50_over_evalsha"]
    assert ratios(rounds[:1], STORE_RATIOS)["commit_turn_p50_over_evalsha"] == rounds[0][over] / rounds[0][under]


def test_late_sessions_have_had_their_turns(rounds: list[dict[str, float]]) -> None:
    assert all(figures["turn_1000_last_seq"] > LONG_TURNS for figures in rounds)
    assert all(figures["turn_1000_state_bytes"] > figures["early_state_bytes"] for figures in rounds)


@pytest.mark.parametrize("form", ["encrypted", "plain"])
def test_memory_is_counted_for_every_session(redis_server: RedisServer, form: str) -> None:
    told: list[int] = []
    size_bytes = uvloop.run(bytes_per_session(redis_server.url, ciphers()[form], 400, told.append))
    assert told == [0, 200]
    assert 10_000 < size_bytes < 40_000, "ten reply events and a state"


def test_conversations_are_what_a_worker_writes() -> None:
    conversation, session = Conversation(), None
    for seq in range(1, 41):
        turn = conversation.next_turn()
        event = decode_reply(turn.reply)
        session = evolve(session, event)
        assert (event.seq, event.id, session) == (seq, turn.event_id, turn.session)
        assert 900 <= len(turn.reply) <= 1_200


async def test_the_floor_writes_the_bytes_of_a_turn_over_the_version_before(redis_server: RedisServer) -> None:
    turn = middle_turn(ciphers()["encrypted"])
    async with FloorStore(redis_server.url, turn) as floor, Redis.from_url(redis_server.url) as redis:
        [[first, second, third]] = await floor.lanes(1, 3)
        await first()
        await second()
        assert await redis.hgetall(floor.key(0)) == {b"version": b"2", b"turn": turn}
        await redis.hset(floor.key(0), "version", 7)
        with pytest.raises(BenchError, match="refused"):
            await third()


def test_the_table_has_every_ratio() -> None:
    figures = {figure: 123.4 for pair in RATIOS.values() for figure in pair}
    report = Report(
        ratios=dict.fromkeys(RATIOS, 1.0),
        figures={
            "conditions": conditions(1, 1.0, 10),
            "medians": figures,
            "redis_bytes_per_session_10_turns": {"encrypted": 18_949.0, "plain": 12_155.0},
        },
    )
    console = Console(width=80, record=True, file=StringIO())
    console.print(store_table(report, RATIOS))
    shown = console.export_text()
    assert [name for name in RATIOS if name not in shown] == []
    assert "18,949 bytes" in shown
