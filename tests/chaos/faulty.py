"""`supportstream` with faults built in, for tests only: `python -m tests.chaos.faulty worker`.

CHAOS_FAULTS says which, as JSON (`Faults`). The product has no seam for them: they are put around its classes here.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, Literal, TypeVar

import orjson

T = TypeVar("T")

VARIABLE = "CHAOS_FAULTS"
PROGRAM = (sys.executable, "-m", "tests.chaos.faulty")

Failpoint = Literal["before_commit_turn", "after_commit_turn", "after_publish", "before_group_commit"]
"""Where a turn may be hit: before the compare-and-set, between it and the publish, between that and the offset's
commit (the last two: before and after the progress is saved in the store)."""
Guard = Literal["fence", "lane_order", "contiguous_commit", "edge_sequence"]
"""What keeps an invariant, and can be taken away to see that the checker notices."""


@dataclass(frozen=True)
class Faults:
    """What shall go wrong in a process."""

    kill_at: Failpoint | None = None
    kill_after: int = 1
    """At which passing of `kill_at` the process ends, by SIGKILL."""
    think_seconds: float = 0.0
    """How long every answer takes."""
    think_jitter: float = 0.0
    """How much longer it takes at most, at random."""
    poison: str | None = None
    """A text at which the generator breaks."""
    dead_letters_away_seconds: float = 0.0
    """How long, from the first dead letter on, the dead letter topic takes none."""
    block_after: int | None = None
    """After how many answers the event loop stands still, once."""
    block_seconds: float = 0.0
    lose_response_every: int | None = None
    """Every so many commits Redis does what it is told and the answer is lost."""
    jump_after: int | None = None
    """After how many answers the process' wall clock jumps, once."""
    jump_seconds: float = 0.0
    without: Guard | None = None

    def setting(self) -> dict[str, str]:
        """As a setting of a process of a `Pipeline`."""
        return {VARIABLE: orjson.dumps(asdict(self)).decode()}


def main() -> None:
    if told := os.environ.pop(VARIABLE, None):
        build_in(Faults(**orjson.loads(told)))
    from ops.cli.main import main as supportstream

    supportstream()


def build_in(faults: Faults) -> None:
    if faults.kill_at is not None:
        _kill_at(faults.kill_at, faults.kill_after)
    if faults != Faults():
        _trouble_generator(faults)
    if faults.dead_letters_away_seconds:
        _refuse_dead_letters(faults.dead_letters_away_seconds)
    if faults.lose_response_every is not None:
        _lose_responses(faults.lose_response_every)
    if faults.without is not None:
        _GUARDS[faults.without]()


def _kill_at(point: Failpoint, after: int) -> None:
    from store.redis import RedisSessionStore
    from workers.app import SubscribedConsumer
    from workers.turn import TurnProcessor

    passed = 0

    def pass_point() -> None:
        nonlocal passed
        passed += 1
        if passed >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    match point:
        case "before_commit_turn":
            _around(RedisSessionStore, "commit_turn", before=pass_point)
        case "after_commit_turn":
            _around(RedisSessionStore, "commit_turn", after=pass_point)
        case "after_publish":
            _around(TurnProcessor, "_publish", after=pass_point)
        case "before_group_commit":
            _around(SubscribedConsumer, "commit", before=pass_point)


def _around(
    owner: type, name: str, *, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @wraps(original)
    async def wrapped(*arguments: Any, **named: Any) -> Any:
        if before is not None:
            before()
        result = await original(*arguments, **named)
        if after is not None:
            after()
        return result

    setattr(owner, name, wrapped)


def _trouble_generator(faults: Faults) -> None:
    from workers.generation.null import NullGenerator
    from workers.generation.protocol import Answer, Emit, Question

    generate = NullGenerator.generate
    answers = 0

    async def thoughtful(self: NullGenerator, question: Question, emit: Emit) -> Answer:
        nonlocal answers
        answers += 1
        if answers == faults.block_after:
            time.sleep(faults.block_seconds)  # noqa: ASYNC251 - that is the fault
        if answers == faults.jump_after:
            _jump(faults.jump_seconds)
        if faults.poison is not None and faults.poison in question.message.text:
            raise RuntimeError("poison (a test's fault)")
        if faults.think_seconds or faults.think_jitter:
            await asyncio.sleep(faults.think_seconds + random.uniform(0.0, faults.think_jitter))
        return await generate(self, question, emit)

    NullGenerator.generate = thoughtful  # type: ignore[method-assign]


def _jump(seconds: float) -> None:
    """As when somebody sets the machine's clock: the monotonic clock does not notice."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def _refuse_dead_letters(seconds: float) -> None:
    from schemas.publishing import BrokerUnavailable
    from workers.dead_letters import DeadLetters

    write = DeadLetters.write
    back_at: float | None = None

    async def refused(self: DeadLetters, *arguments: Any, **named: Any) -> None:
        nonlocal back_at
        back_at = back_at or time.monotonic() + seconds
        if time.monotonic() < back_at:
            raise BrokerUnavailable("The dead letter topic is away (a test's fault).")
        await write(self, *arguments, **named)

    DeadLetters.write = refused  # type: ignore[method-assign]


def _lose_responses(every: int) -> None:
    from store.errors import StoreUnavailable
    from store.redis.round_trips import RoundTrips
    from store.redis.scripts import COMMIT_TURN

    run_script = RoundTrips.run_script
    commits = 0

    async def forgetful(self: RoundTrips, script: Any, keys: list[str], args: list[Any]) -> Any:
        nonlocal commits
        response = await run_script(self, script, keys, args)
        if script is COMMIT_TURN:
            commits += 1
            if commits % every == 0:
                raise StoreUnavailable("The response was lost (a test's fault).")
        return response

    RoundTrips.run_script = forgetful  # type: ignore[method-assign]


def _without_fence() -> None:
    """Every write counts: neither token nor version is compared."""
    from store.protocol import Already, Applied, Stale
    from store.redis import RedisSessionStore

    commit_turn = RedisSessionStore.commit_turn

    async def unfenced(self: RedisSessionStore, session: Any, **named: Any) -> Any:
        fence = named["fence"]
        named["fence"] = type(fence)(fence.kind, 2**52)
        while isinstance(outcome := await commit_turn(self, session, **named), Stale):
            named["expected_version"] = outcome.version
        return Applied() if isinstance(outcome, Already) else outcome

    RedisSessionStore.commit_turn = unfenced  # type: ignore[method-assign]


def _without_lane_order() -> None:
    """Every record is a lane of its own."""
    from workers.records import Taken

    Taken.lane = property(lambda taken: str(taken.source))  # type: ignore[method-assign, assignment]


def _without_contiguous_commit() -> None:
    """The highest offset that is done is committed."""
    from workers.commits import CommitTracker

    done = CommitTracker.done

    def eager(self: CommitTracker[Any], partition: Any, offset: int) -> None:
        done(self, partition, offset)
        state = self._partitions.get(partition)
        if state is not None and state.done:
            state.position = max(state.done) + 1

    CommitTracker.done = eager  # type: ignore[method-assign]


def _without_edge_sequence() -> None:
    """Every reply that comes is shown."""
    from ingress.connection import Arrival, Command, Connection, Send

    def careless(self: Connection, arrivals: list[Arrival]) -> list[Command]:
        return [Send(arrival.text) for arrival in arrivals]

    Connection._deliver = careless  # type: ignore[method-assign, assignment]


_GUARDS: dict[Guard, Callable[[], None]] = {
    "fence": _without_fence,
    "lane_order": _without_lane_order,
    "contiguous_commit": _without_contiguous_commit,
    "edge_sequence": _without_edge_sequence,
}

if __name__ == "__main__":
    main()
