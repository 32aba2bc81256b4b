"""Turns that only wait for a server give their places to others, and never more than allowed work (P, O)."""

import asyncio
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.workers.dispatch_rig import P0, Rig
from tests.unit.workers.fakes import until
from workers import dispatch
from workers.lanes import Lanes, Work
from workers.places import Place, own_place
from workers.records import Taken

CONCURRENCY = 2


def work(lane: str, offset: int = 0) -> Work[int, int]:
    return Work(lane, 0, 1, offset)


def lanes_with(*offered: Work[int, int], concurrency: int = CONCURRENCY) -> Lanes[int, int]:
    lanes: Lanes[int, int] = Lanes(concurrency=concurrency)
    for each in offered:
        lanes.offer(each)
    return lanes


def test_a_parked_head_gives_its_place_to_another_lane_and_keeps_its_own_busy() -> None:
    """P, O"""
    head, behind, other = work("a"), work("a", 1), work("b")
    lanes = lanes_with(head, behind, other, concurrency=1)
    assert lanes.take() is head
    assert lanes.take() is None
    lanes.park(head)
    assert lanes.take() is other
    lanes.finish(other)
    assert lanes.take() is None, "its session is not done with"
    assert lanes.running() == {head}
    assert lanes.holds({0})
    lanes.finish(head)
    assert lanes.take() is behind


def test_a_head_that_returns_comes_before_those_that_have_not_begun() -> None:
    """P: it is older, and what it waited for is there."""
    first, second, third = work("a"), work("b"), work("c")
    lanes = lanes_with(first, second, third, concurrency=1)
    for each in (first, second):
        assert lanes.take() is each
        lanes.park(each)
    lanes.wants_place(second)
    lanes.wants_place(first)
    for each in (second, first, third):
        assert lanes.take() is each
        lanes.finish(each)


def test_a_head_that_returns_has_no_place_while_all_are_taken() -> None:
    first, second = work("a"), work("b")
    lanes = lanes_with(first, second, concurrency=1)
    assert lanes.take() is first
    lanes.park(first)
    assert lanes.take() is second
    lanes.wants_place(first)
    assert lanes.take() is None
    assert lanes.holding_places == {second}


def test_a_parked_head_that_ended_takes_no_place_any_more() -> None:
    first, second = work("a"), work("b")
    lanes = lanes_with(first, second, concurrency=1)
    lanes.take()
    lanes.park(first)
    lanes.wants_place(first)
    lanes.finish(first)
    assert lanes.take() is second


def test_a_lane_whose_head_was_parked_does_not_go_on_past_its_turn() -> None:
    """P: its place is another's."""
    first, behind, other = work("a"), work("a", 1), work("b")
    lanes = lanes_with(first, behind, other, concurrency=1)
    lanes.take()
    lanes.park(first)
    assert lanes.take() is other
    assert lanes.finish_and_go_on(first) is None
    assert lanes.take() is None
    lanes.finish(other)
    assert lanes.take() is behind


def test_a_lane_does_not_go_on_while_a_parked_head_wants_its_place() -> None:
    """P"""
    first, hot, behind = work("a"), work("hot"), work("hot", 1)
    lanes = lanes_with(first, hot, behind, concurrency=1)
    lanes.take()
    lanes.park(first)
    assert lanes.take() is hot
    lanes.wants_place(first)
    assert lanes.finish_and_go_on(hot) is None
    assert lanes.take() is first


class PlacesMachine(RuleBasedStateMachine):
    """Lanes whose heads are parked and come back, beside the simplest model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[int, int] = Lanes(concurrency=CONCURRENCY)
        self.offered: dict[str, list[int]] = defaultdict(list)
        """Per lane the offsets that have not begun, in order."""
        self.holding: list[Work[int, int]] = []
        self.parked: list[Work[int, int]] = []
        self.returning: list[Work[int, int]] = []
        self.last = 0

    @rule(lane=st.sampled_from("abcd"))
    def offer(self, lane: str) -> None:
        self.last += 1
        self.offered[lane].append(self.last)
        self.lanes.offer(work(lane, self.last))

    @rule()
    def take(self) -> None:
        taken = self.lanes.take()
        begun = {each.lane for each in (*self.holding, *self.parked)}
        ready = [lane for lane, waiting in self.offered.items() if waiting and lane not in begun]
        if len(self.holding) >= CONCURRENCY:
            assert taken is None
        elif self.returning:
            assert taken is self.returning.pop(0), "P: what returns comes first, longest first"
            self.parked.remove(taken)
            self.holding.append(taken)
        elif not ready:
            assert taken is None
        else:
            assert taken is not None
            assert taken.lane not in begun, "O"
            assert taken.item == self.offered[taken.lane].pop(0), "O"
            self.holding.append(taken)

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        parked = data.draw(st.sampled_from(self.holding))
        self.holding.remove(parked)
        self.parked.append(parked)
        self.lanes.park(parked)

    @precondition(lambda self: len(self.parked) > len(self.returning))
    @rule(data=st.data())
    def want(self, data: st.DataObject) -> None:
        wants = data.draw(st.sampled_from([each for each in self.parked if each not in self.returning]))
        self.returning.append(wants)
        self.lanes.wants_place(wants)

    @precondition(lambda self: self.holding or self.parked)
    @rule(data=st.data(), goes_on=st.booleans())
    def finish(self, data: st.DataObject, goes_on: bool) -> None:
        ended = data.draw(st.sampled_from([*self.holding, *self.parked]))
        held = ended in self.holding
        for each in (self.holding, self.parked, self.returning):
            if ended in each:
                each.remove(ended)
        if not goes_on:
            self.lanes.finish(ended)
            return
        following = self.lanes.finish_and_go_on(ended)
        if following is not None:
            assert held, "its place is another's"
            assert not self.returning, "P: another wants the place"
            assert following.lane == ended.lane
            assert following.item == self.offered[ended.lane].pop(0), "O"
            self.holding.append(following)

    @invariant()
    def no_more_hold_places_than_allowed(self) -> None:
        assert self.lanes.holding_places == set(self.holding)
        assert len(self.holding) <= CONCURRENCY
        assert self.lanes.running() == {*self.holding, *self.parked}
        assert self.lanes.waiting == sum(map(len, self.offered.values()))

    def teardown(self) -> None:
        """L: everything ends, and nothing is left behind."""
        for each in (*self.holding, *self.parked):
            self.lanes.finish(each)
        ended = 0
        while (head := self.lanes.take()) is not None:
            self.lanes.finish(head)
            ended += 1
        assert ended == sum(map(len, self.offered.values()))
        assert self.lanes.running() == set()


TestPlacesMachine = PlacesMachine.TestCase
TestPlacesMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# ---- the dispatcher


class Steps:
    """Turns that wait for a server first, then work; each goes on when its session is let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.working: list[str] = []
        self.most_working = 0
        self.answers: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """What the server has answered."""
        self.works: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """What is worked out."""

    async def __call__(self, taken: Taken, place: Place) -> None:
        name = f"{taken.session_id}{taken.record.offset}"
        self.begun.append(name)
        await self.answers[name].wait()
        await place.work()
        self.working.append(name)
        self.most_working = max(self.most_working, len(self.working))
        try:
            await self.works[name].wait()
        finally:
            self.working.remove(name)
            place.wait()


async def stepping(*sessions: str, drain: float = 5.0) -> tuple[Rig, Steps]:
    """A rig with room for two turns that has taken a record of each session."""
    steps = Steps()
    rig = Rig(concurrency=CONCURRENCY, run_turn=steps, drain=drain)
    rig.consumer.produce(P0, *sessions)
    await rig.assign(P0)
    rig.feed(P0)
    await until(lambda: len(steps.begun) >= 2)
    return rig, steps


@pytest.fixture
def idle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "IDLE_SECONDS", 0.01)


async def test_while_turns_wait_for_a_server_the_others_begin(idle_soon: None) -> None:
    """P: as many as are allowed at once wait for a node that is away."""
    rig, steps = await stepping("a", "b", "c", "d", "e")
    assert steps.begun == ["a0", "b1"]
    await until(lambda: steps.begun == ["a0", "b1", "c2", "d3", "e4"])
    for name in ("c2", "d3", "e4"):
        steps.answers[name].set()
        steps.works[name].set()
    await until(lambda: len(rig.dispatcher._tasks) == 2)
    for name in ("a0", "b1"):
        steps.answers[name].set()
        steps.works[name].set()
    await until(lambda: not rig.dispatcher._tasks)
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 5}
    assert steps.most_working <= CONCURRENCY


async def test_a_turn_that_gave_its_place_away_works_only_when_it_has_one_again(idle_soon: None) -> None:
    """P: the bound is on what works; and who returns comes before who has not begun."""
    _, steps = await stepping("a", "b", "c", "d")
    await until(lambda: steps.begun == ["a0", "b1", "c2", "d3"])
    for name in ("c2", "d3"):
        steps.answers[name].set()
    await until(lambda: steps.working == ["c2", "d3"])
    steps.answers["a0"].set()
    steps.answers["b1"].set()
    steps.works["c2"].set()
    await until(lambda: "c2" not in steps.working and len(steps.working) == 2)
    assert steps.working == ["d3", "a0"]
    steps.works["d3"].set()
    await until(lambda: steps.working == ["a0", "b1"])
    assert steps.most_working == CONCURRENCY
    steps.works["a0"].set()
    steps.works["b1"].set()


async def test_a_turn_that_got_a_place_back_works_on_and_gives_it_away_again(idle_soon: None) -> None:
    """L: as one that is tried again."""
    rounds: list[str] = []
    answers = [asyncio.Event() for _ in range(3)]

    async def turn(taken: Taken, place: Place) -> None:
        for answer in answers if taken.session_id == "a" else [answers[2]]:
            await answer.wait()
            await place.work()
            await place.work()
            rounds.append(f"{taken.session_id}")
            place.wait()

    rig = Rig(concurrency=1, run_turn=turn)
    rig.consumer.produce(P0, "a", "b")
    await rig.assign(P0)
    rig.feed(P0)
    for n, answer in enumerate(answers):
        await until(lambda: bool(rig.dispatcher._lanes.running() - rig.dispatcher._lanes.holding_places))
        answer.set()
        await until(lambda n=n: rounds.count("a") == n + 1)  # type: ignore[misc]
    await until(lambda: not rig.dispatcher._tasks)
    assert rounds.count("b") == 1


async def test_a_turn_that_works_keeps_its_place_however_long_it_takes(idle_soon: None) -> None:
    """P: only one that waits gives it away."""
    _, steps = await stepping("a", "b", "c", "d")
    steps.answers["a0"].set()
    await until(lambda: steps.working == ["a0"])
    # All that wait pass through the second place meanwhile.
    await until(lambda: steps.begun == ["a0", "b1", "c2", "d3"])
    for name in ("b1", "c2", "d3"):
        steps.answers[name].set()
    await until(lambda: len(steps.working) == 2)
    for name in ("b1", "c2", "d3"):
        steps.works[name].set()
    await until(lambda: steps.working == ["a0"])
    assert steps.most_working == CONCURRENCY
    steps.works["a0"].set()


async def test_the_next_turn_of_a_session_does_not_begin_while_the_one_before_waits_without_a_place(
    idle_soon: None,
) -> None:
    """O"""
    rig, steps = await stepping("a", "b", "a", "c")
    await until(lambda: "c3" in steps.begun)
    assert "a2" not in steps.begun
    for name in ("a0", "b1", "c3"):
        steps.answers[name].set()
        steps.works[name].set()
    await until(lambda: "a2" in steps.begun)
    steps.answers["a2"].set()
    steps.works["a2"].set()
    await until(lambda: not rig.dispatcher._tasks)
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 4}


async def test_a_revocation_ends_turns_without_a_place_as_well(idle_soon: None) -> None:
    """O, C: those that wait for a server and those that wait for a place."""
    rig, steps = await stepping("a", "b", "c", "d", "e", drain=0.0)
    await until(lambda: len(steps.begun) == 5)
    for name in ("c2", "d3", "e4", "a0"):
        steps.answers[name].set()
    await until(lambda: len(steps.working) == 2)
    await rig.dispatcher.revoked([P0])
    assert rig.dispatcher._tasks == {}
    assert not rig.dispatcher._lanes.running()
    assert rig.consumer.committed == {}
    begun = len(steps.begun)
    steps.answers.clear()
    await rig.assign(P0)
    rig.feed(P0)
    await until(lambda: len(steps.begun) == begun + 5)


async def test_a_place_outside_of_a_dispatcher_is_never_waited_for() -> None:
    place = own_place()
    place.parked = True
    async with asyncio.timeout(1.0):
        await place.work()
    assert place.idle_since is None
    place.wait()
    assert place.idle_since is not None


def test_a_parked_head_that_needs_no_place_any_more_is_not_handed_out() -> None:
    """O: taken for one that begins, its turn would run twice at once."""
    head, other = work("a"), work("b")
    lanes = lanes_with(head, other, concurrency=1)
    assert lanes.take() is head
    lanes.park(head)
    lanes.wants_place(head)
    assert lanes.is_parked(head)
    lanes.needs_no_place(head)
    assert lanes.take() is other
    lanes.finish(other)
    assert lanes.take() is None
