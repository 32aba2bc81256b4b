"""`supportstream bench store`: what the session store costs, next to redis-py alone, to locks, and as sessions grow.

What a ratio compares is measured by turns, in batches of milliseconds (processes: in rounds of seconds): a machine
that is slow for a while is slow for both. A ratio is the median over the rounds of one figure ÷ the other.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

import uvloop
from redis.exceptions import RedisError

from ops.bench.floor_store import FloorStore
from ops.bench.measure import BenchError
from ops.bench.orderings import measure_orderings
from ops.bench.report import Report
from ops.bench.side_figures import Figures, medians
from ops.bench.store_memory import bytes_per_session
from ops.bench.store_reads import Reads
from ops.bench.store_turns import LONG_TURNS, Turns
from ops.bench.store_writes import StoreWrites, Writes, fence_of, middle_turn
from ops.bench.stores import opened, redis_alone
from ops.bench.turns import Progress
from ops.processes.serving import settle_memory
from store.encryption import Cipher, PlainText, SessionCipher, new_key
from store.errors import StoreError

STORE_RATIOS = {
    "l1_hit_over_get": ("redis_get_us", "l1_hit_us"),
    "commit_turn_p50_over_evalsha": ("commit_turn_p50_us", "evalsha_p50_us"),
    "plain_commit_turn_p50_over_evalsha": ("plain_commit_turn_p50_us", "evalsha_p50_us"),
    "commit_turn_rate_over_evalsha": ("commit_turns_per_s_200_in_flight", "evalshas_per_s_200_in_flight"),
    "plain_commit_turn_rate_over_evalsha": ("plain_commit_turns_per_s_200_in_flight", "evalshas_per_s_200_in_flight"),
    "turn_1000_over_turn_1": ("turn_1000_us", "early_turn_us"),
    "uncached_turn_1000_over_turn_1": ("uncached_turn_1000_us", "uncached_early_turn_us"),
}
"""Which figure each ratio divides by which."""
ORDERING_RATIOS = {"partition_over_lock": ("partition_turns_per_s", "lock_turns_per_s")}
RATIOS = STORE_RATIOS | ORDERING_RATIOS

MEMORY_STEPS = 10


def run(rounds: int, seconds: float, sessions: int, progress: Progress) -> Report:
    """Measure `rounds` rounds of the store, the memory of `sessions` sessions, encrypted and in plain text, and
    `rounds` rounds of the product in both orderings, `seconds` per measurement.

    A round takes six times `seconds` and three more, 100,000 sessions take four minutes, what comes before one.

    Raises ServerError when something can't be started (the message ends with its log), BenchError when what is
    measured fails.
    """
    steps = rounds + 2 * MEMORY_STEPS + 1 + rounds
    settle_memory()  # as a worker does, and to the floor's good as well
    with redis_alone() as url:
        of_store = measured_store(
            url,
            rounds,
            seconds,
            lambda done: progress(done, steps, f"store and redis-py, round {1 + done} of {rounds}"),
        )
    memory = measured_memory(
        sessions,
        lambda share, kind: progress(
            rounds + int(2 * MEMORY_STEPS * share), steps, f"memory of {sessions:,} sessions, {kind}"
        ),
    )
    begun = rounds + 2 * MEMORY_STEPS
    progress(begun, steps, "starting the product twice, warming up the broker")
    of_orderings = measure_orderings(
        rounds,
        seconds,
        lambda done: progress(begun + 1 + done, steps, f"partition and lock, round {1 + done} of {rounds}"),
    )
    progress(steps, steps, "done")
    return Report(
        ratios=ratios(of_store, STORE_RATIOS) | ratios(of_orderings, ORDERING_RATIOS),
        figures={
            "conditions": conditions(rounds, seconds, sessions),
            "medians": medians(of_store) | medians(of_orderings),
            "redis_bytes_per_session_10_turns": memory,
            "rounds": {"store": of_store, "orderings": of_orderings},
        },
    )


def ciphers() -> dict[str, Cipher]:
    """Both forms of what Redis keeps."""
    return {"encrypted": SessionCipher([new_key()]), "plain": PlainText()}


def measured_memory(sessions: int, progress: Callable[[float, str], None]) -> Figures:
    """Bytes per session in both forms, each on a Redis of its own. `progress` is told the share that is done, and what
    comes now.

    Raises ServerError without redis-server, BenchError when the store fails.
    """
    forms = ciphers()
    measured: Figures = {}
    for form, cipher in forms.items():

        def written(count: int, form: str = form) -> None:
            progress((len(measured) + count / sessions) / len(forms), form)

        with redis_alone() as url, failures_told():
            measured[form] = uvloop.run(bytes_per_session(url, cipher, sessions, written))
    return measured


def measured_store(
    url: str, rounds: int, seconds: float, progress: Callable[[int], None], *, long_turns: int = LONG_TURNS
) -> list[Figures]:
    """The figures of each round of `rounds` on the Redis at `url`. `progress` is told before each how many are done.

    Raises BenchError when the store or the floor fails.
    """
    with failures_told():
        return uvloop.run(_rounds(url, rounds, seconds, progress, long_turns))


async def _rounds(
    url: str, rounds: int, seconds: float, progress: Callable[[int], None], long_turns: int
) -> list[Figures]:
    progress(0)
    cipher, plain_text = ciphers().values()
    async with (
        opened(url, cipher) as encrypted,
        opened(url, plain_text) as plain,
        FloorStore(url, middle_turn(cipher)) as floor,
    ):
        fence = await fence_of(encrypted)
        reads = await Reads.prepared(plain, fence)
        writes = Writes(StoreWrites(encrypted, fence), StoreWrites(plain, fence), floor)
        turns = Turns(encrypted, fence)
        await turns.prepare(long_turns)
        measured: list[Figures] = []
        for number in range(rounds):
            progress(number)
            measured.append(
                {
                    **await reads.one_at_a_time(seconds),
                    **await writes.one_at_a_time(seconds),
                    **await writes.in_flight(seconds),
                    **await turns.one_at_a_time(seconds),
                }
            )
    return measured


@contextmanager
def failures_told() -> Iterator[None]:
    """Makes a BenchError of what store and floor raise in the block."""
    try:
        yield
    except (StoreError, RedisError) as error:
        raise BenchError(f"the store or the floor failed: {error}") from error


def ratios(rounds: Sequence[Figures], divided: Mapping[str, tuple[str, str]]) -> Figures:
    """The median over the rounds of each ratio."""
    return {
        name: median(figures[over] / figures[under] for figures in rounds) for name, (over, under) in divided.items()
    }


def conditions(rounds: int, seconds: float, sessions: int) -> dict[str, object]:
    """What a reader must know to compare two reports."""
    return {
        "rounds": rounds,
        "seconds": seconds,
        "sessions": sessions,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
