"""While partitions are added, a session moves to its new home only when nothing of it waits at the old one (O)."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingress.homes import Choice, Homes
from schemas.partition import home_partition

BEFORE, AFTER = 2, 4


def session(*, moves: bool) -> str:
    """A session that gets another home, or keeps its own."""
    ids = (f"s{n}" for n in range(1_000))
    return next(s for s in ids if (home_partition(s, BEFORE) != home_partition(s, AFTER)) == moves)


MOVING, STAYING = session(moves=True), session(moves=False)
OLD, NEW = home_partition(MOVING, BEFORE), home_partition(MOVING, AFTER)


def grown(*, ends: dict[int, int] | None = None) -> Homes:
    homes = Homes(BEFORE)
    homes.grow(AFTER)
    assert homes.needs_barrier == BEFORE
    homes.barrier(ends or {0: 10, 1: 10})
    return homes


def test_without_a_move_everybody_is_at_home() -> None:
    homes = Homes(BEFORE)
    assert homes.choose(MOVING).partition == OLD
    assert homes.settled


def test_a_session_goes_on_at_its_old_home_until_what_was_there_is_done() -> None:
    homes = grown()
    assert homes.choose(MOVING).partition == OLD


def test_before_it_is_known_where_the_logs_ended_no_session_moves_however_far_workers_are() -> None:
    homes = Homes(BEFORE)
    homes.grow(AFTER)
    homes.progressed({0: 99, 1: 99})
    assert not homes.settled
    assert homes.choose(MOVING).partition == OLD


def test_of_a_session_s_messages_at_its_old_home_the_last_one_must_be_done() -> None:
    homes = grown()
    homes.published(homes.choose(MOVING), 12)
    homes.progressed({0: 13, 1: 13})
    assert not homes.waits_for_answer(MOVING)
    assert homes.choose(MOVING).partition == NEW


def test_it_moves_when_workers_have_passed_where_the_log_ended() -> None:
    homes = grown()
    homes.progressed({0: 10, 1: 10})
    assert homes.settled
    assert homes.choose(MOVING).partition == NEW


def test_what_it_said_during_the_move_must_be_done_as_well() -> None:
    homes = grown()
    homes.published(homes.choose(MOVING), 12)
    homes.progressed({0: 12, 1: 12})
    assert homes.choose(MOVING).partition == OLD
    assert not homes.settled


def test_whoever_talks_without_a_pause_moves_when_its_last_message_is_answered() -> None:
    homes = grown()
    homes.published(homes.choose(MOVING), 12)
    homes.progressed({0: 11, 1: 11})
    assert homes.waits_for_answer(MOVING)
    homes.answered(MOVING, OLD, 11)
    homes.answered(MOVING, NEW, 12)
    assert homes.choose(MOVING).at_old_home
    homes.failed(homes.choose(MOVING))


def test_an_answer_at_the_old_home_lets_it_move() -> None:
    homes = grown()
    homes.published(homes.choose(MOVING), 12)
    homes.progressed({0: 11, 1: 11})
    homes.answered(MOVING, OLD, 12)
    assert homes.choose(MOVING).partition == NEW


def test_what_is_on_its_way_to_the_old_home_holds_the_session_there() -> None:
    homes = grown()
    under_way = homes.choose(MOVING)
    homes.progressed({0: 99, 1: 99})
    assert not homes.settled
    assert homes.choose(MOVING).partition == OLD
    homes.failed(under_way)


def test_a_session_whose_home_stays_holds_nothing_back() -> None:
    homes = grown()
    homes.published(homes.choose(STAYING), 50)
    homes.progressed({0: 10, 1: 10})
    assert homes.settled


def test_the_logs_are_looked_at_when_everything_from_before_has_arrived() -> None:
    homes = Homes(BEFORE)
    first, second = homes.choose(MOVING), homes.choose(STAYING)
    homes.grow(AFTER)
    assert homes.needs_barrier is None
    homes.published(first, 3)
    assert homes.needs_barrier is None
    homes.failed(second)
    assert homes.needs_barrier == BEFORE


def test_one_move_after_the_other() -> None:
    homes = Homes(BEFORE)
    homes.grow(AFTER)
    with pytest.raises(ValueError, match="one move after the other"):
        homes.grow(AFTER * 2)
    with pytest.raises(ValueError, match="more partitions"):
        Homes(AFTER).grow(BEFORE)


class Moving(RuleBasedStateMachine):
    """An ingress, the logs, and workers who take each partition in order, at any pace."""

    def __init__(self) -> None:
        super().__init__()
        self.homes = Homes(BEFORE)
        self.logs: dict[int, list[tuple[str, int]]] = {n: [] for n in range(AFTER)}
        self.done = dict.fromkeys(range(AFTER), 0)
        self.said: dict[str, int] = {}
        self.under_way: list[tuple[Choice, int]] = []
        self.answered: dict[str, int] = {}

    @rule(session_id=st.sampled_from([MOVING, STAYING, "s1", "s2", "s3", "s4"]))
    def say(self, session_id: str) -> None:
        # One socket sends one event after the other; the next while the one before is on its way goes as well.
        self.said[session_id] = number = self.said.get(session_id, 0) + 1
        self.under_way.append((self.homes.choose(session_id), number))

    @precondition(lambda self: self.under_way)
    @rule()
    def arrive(self) -> None:
        choice, number = self.under_way.pop(0)
        log = self.logs[choice.partition]
        log.append((choice.session_id, number))
        self.homes.published(choice, len(log) - 1)

    @rule(partition=st.integers(0, AFTER - 1))
    def work(self, partition: int) -> None:
        if self.done[partition] < len(self.logs[partition]):
            session_id, number = self.logs[partition][self.done[partition]]
            assert number > self.answered.get(session_id, 0), "answered out of order (O)"
            self.answered[session_id] = number
            self.homes.answered(session_id, partition, self.done[partition])
            self.done[partition] += 1

    @precondition(lambda self: self.homes.settled and self.homes.count < AFTER)
    @rule()
    def grow(self) -> None:
        self.homes.grow(AFTER)

    @rule()
    def look(self) -> None:
        if (old := self.homes.needs_barrier) is not None:
            self.homes.barrier({n: len(self.logs[n]) for n in range(old)})
        self.homes.progressed(dict(self.done))

    @invariant()
    def all_is_somewhere(self) -> None:
        total = sum(map(len, self.logs.values())) + len(self.under_way)
        assert total == sum(self.said.values())

    def teardown(self) -> None:
        """P: when everything is done, nobody is held back any more."""
        while self.under_way:
            self.arrive()
        for partition in self.logs:
            while self.done[partition] < len(self.logs[partition]):
                self.work(partition)
        self.look()
        self.look()
        assert self.homes.settled


TestMoving = Moving.TestCase
TestMoving.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
