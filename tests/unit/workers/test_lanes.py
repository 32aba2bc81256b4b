"""Lanes and commits as a machine: whatever the order of arrivals, completions and rebalances, the invariants hold."""

from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from workers.commits import CommitTracker
from workers.lanes import Lanes, Work

CONCURRENCY = 3
PARTITIONS = st.integers(0, 2)
SESSIONS = st.sampled_from(["a", "b", "c", "hot"])

Item = tuple[str, int, int]
"""(session, partition, offset)"""


def work(lane: str, offset: int, partition: int = 0, generation: int = 1) -> Work[int, int]:
    return Work(lane, partition, generation, offset)


def test_of_one_session_only_the_head_runs() -> None:
    """O"""
    lanes: Lanes[int, int] = Lanes(concurrency=10)
    first, second = work("a", 1), work("a", 2)
    lanes.offer(first)
    lanes.offer(second)
    assert lanes.take() is first
    assert lanes.take() is None
    lanes.finish(first)
    assert lanes.take() is second


def test_a_busy_session_holds_back_only_itself() -> None:
    """P: a hot key with a hundred waiting records costs the others one turn at most."""
    lanes: Lanes[int, int] = Lanes(concurrency=1)
    for offset in range(100):
        lanes.offer(work("hot", offset))
    other = work("b", 100)
    lanes.offer(other)
    hot = lanes.take()
    assert hot is not None
    lanes.finish(hot)
    assert lanes.take() is other


def test_a_lane_goes_on_at_once_while_nobody_waits_for_its_place() -> None:
    lanes: Lanes[int, int] = Lanes(concurrency=1)
    first, second, third = work("a", 1), work("a", 2), work("a", 3)
    for each in (first, second, third):
        lanes.offer(each)
    assert lanes.take() is first
    assert lanes.finish_and_go_on(first) is second
    assert lanes.running() == {second}
    other = work("b", 4)
    lanes.offer(other)
    assert lanes.finish_and_go_on(second) is None, "P: another lane waits"
    assert lanes.take() is other
    lanes.finish(other)
    assert lanes.take() is third
    assert lanes.finish_and_go_on(third) is None
    with pytest.raises(KeyError):
        lanes.finish_and_go_on(third)


def test_no_more_lanes_run_than_allowed() -> None:
    lanes: Lanes[int, int] = Lanes(concurrency=2)
    for n, lane in enumerate("abc"):
        lanes.offer(work(lane, n))
    assert [lanes.take() is not None for _ in range(3)] == [True, True, False]


def test_a_partition_given_back_does_not_run_a_session_beside_its_old_turn() -> None:
    """O: revoked and assigned again while a turn is under way."""
    lanes: Lanes[int, int] = Lanes(concurrency=10)
    old = work("a", 1, generation=1)
    lanes.offer(old)
    assert lanes.take() is old
    lanes.revoke(0)
    again = work("a", 1, generation=2)
    lanes.offer(again)
    assert lanes.take() is None
    lanes.finish(old)
    assert lanes.take() is again


def test_revoking_a_partition_leaves_the_work_of_others_in_the_same_lane() -> None:
    lanes: Lanes[int, int] = Lanes(concurrency=10)
    kept = work("a", 7, partition=1)
    lanes.offer(work("a", 1, partition=0))
    lanes.offer(kept)
    lanes.revoke(0)
    assert lanes.take() is kept
    assert lanes.take() is None


def test_work_that_does_not_run_cannot_finish() -> None:
    lanes: Lanes[int, int] = Lanes(concurrency=1)
    lanes.offer(work("a", 1))
    with pytest.raises(ValueError, match="not running"):
        lanes.finish(work("a", 1))


def test_without_concurrency_there_are_no_lanes() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Lanes(concurrency=0)


def test_only_the_contiguous_prefix_may_be_committed() -> None:
    """C"""
    commits: CommitTracker[int] = CommitTracker()
    commits.assign(0)
    for offset in (5, 6, 8, 9):  # 7 was compacted away
        commits.taken(0, offset)
    commits.done(0, 6)
    commits.done(0, 9)
    assert commits.committable() == {}
    commits.done(0, 5)
    assert commits.committable() == {0: 7}
    assert commits.unfinished_from(0) == 8
    commits.committed({0: 7})
    assert commits.committable() == {}
    commits.done(0, 8)
    assert commits.committable() == {0: 10}
    assert commits.open_count(0) == 0
    with pytest.raises(KeyError):
        commits.unfinished_from(0)


def test_what_finishes_after_a_revocation_moves_nothing() -> None:
    """C"""
    commits: CommitTracker[int] = CommitTracker()
    commits.assign(0)
    commits.taken(0, 1)
    commits.revoke(0)
    commits.done(0, 1)
    commits.committed({0: 2})
    assert commits.committable() == {}
    assert commits.open_count(0) == 0


class WorkerMachine(RuleBasedStateMachine):
    """A dispatcher without I/O, beside the simplest model of what it must do."""

    running: Bundle[Work[int, Item]] = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[int, Item] = Lanes(concurrency=CONCURRENCY)
        self.commits: CommitTracker[int] = CommitTracker()
        self.generation = dict.fromkeys(range(3), 0)
        self.owned: set[int] = set()
        self.log: dict[int, list[str]] = defaultdict(list)
        self.committed: dict[int, int] = defaultdict(int)
        self.position: dict[int, int] = defaultdict(int)
        self.unfinished: dict[int, set[int]] = defaultdict(set)
        self.last_started: dict[tuple[str, int, int], int] = {}
        self.in_progress: set[Work[int, Item]] = set()

    @rule(partition=PARTITIONS)
    def assign(self, partition: int) -> None:
        if partition in self.owned:
            return
        self.owned.add(partition)
        self.generation[partition] += 1
        self.position[partition] = self.committed[partition]
        self.unfinished[partition] = set()
        self.commits.assign(partition)

    @rule(partition=PARTITIONS, keys=st.lists(SESSIONS, min_size=1, max_size=8))
    def produced(self, partition: int, keys: list[str]) -> None:
        self.log[partition] += keys

    @rule(partition=PARTITIONS, most=st.integers(1, 10))
    def poll(self, partition: int, most: int) -> None:
        if partition not in self.owned:
            return
        begin = self.position[partition]
        for offset in range(begin, min(begin + most, len(self.log[partition]))):
            session = self.log[partition][offset]
            self.commits.taken(partition, offset)
            self.unfinished[partition].add(offset)
            self.lanes.offer(Work(session, partition, self.generation[partition], (session, partition, offset)))
            self.position[partition] = offset + 1

    @rule(target=running, most=st.integers(1, 5))
    def start(self, most: int) -> MultipleResults[Work[int, Item]]:
        taken: list[Work[int, Item]] = []
        while len(taken) < most and (work := self.lanes.take()) is not None:
            session, partition, offset = work.item
            assert all(other.lane != session for other in self.in_progress), "one session runs twice at once (O)"
            place = (session, partition, work.generation)
            assert offset > self.last_started.get(place, -1), "a session's records run out of order (O)"
            self.last_started[place] = offset
            self.in_progress.add(work)
            taken.append(work)
        return multiple(*taken)

    @rule(work=consumes(running), succeeds=st.booleans())
    def finish(self, work: Work[int, Item], succeeds: bool) -> None:
        self.in_progress.remove(work)
        self.lanes.finish(work)
        _, partition, offset = work.item
        if succeeds and partition in self.owned and work.generation == self.generation[partition]:
            self.commits.done(partition, offset)
            self.unfinished[partition].discard(offset)

    @rule(target=running, work=consumes(running))
    def finish_and_go_on(self, work: Work[int, Item]) -> MultipleResults[Work[int, Item]]:
        self.in_progress.remove(work)
        following = self.lanes.finish_and_go_on(work)
        _, partition, offset = work.item
        if partition in self.owned and work.generation == self.generation[partition]:
            self.commits.done(partition, offset)
            self.unfinished[partition].discard(offset)
        if following is None:
            return multiple()
        session, partition, offset = following.item
        assert session == work.lane
        place = (session, partition, following.generation)
        assert offset > self.last_started.get(place, -1), "a session's records run out of order (O)"
        self.last_started[place] = offset
        self.in_progress.add(following)
        return multiple(following)

    @rule()
    def commit(self) -> None:
        offsets = self.commits.committable()
        for partition, offset in offsets.items():
            assert offset > self.committed[partition], "a commit goes back"
            self.committed[partition] = offset
        self.commits.committed(offsets)
        assert self.commits.committable() == {}

    @rule(partition=PARTITIONS)
    def revoke(self, partition: int) -> None:
        self.lanes.revoke(partition)
        self.commits.revoke(partition)
        self.owned.discard(partition)

    @invariant()
    def nothing_unfinished_is_committed(self) -> None:
        """C"""
        for partition in self.owned:
            lowest = min(self.unfinished[partition], default=self.position[partition])
            assert self.committed[partition] <= lowest
            assert self.commits.committable().get(partition, 0) <= lowest

    @invariant()
    def counts_equal_the_sets(self) -> None:
        assert self.lanes.running() == self.in_progress
        assert len(self.in_progress) <= CONCURRENCY
        for partition in self.owned:
            unfinished = self.unfinished[partition]
            expected = sum(offset >= min(unfinished) for offset in range(self.position[partition])) if unfinished else 0
            assert self.commits.open_count(partition) == expected
        for partition in range(3):
            assert self.lanes.running(partition) == {w for w in self.in_progress if w.partition == partition}

    def teardown(self) -> None:
        """P, L: everything that is owned and read can be finished, and then nothing is left behind."""
        for left in list(self.in_progress):
            self.in_progress.remove(left)
            self.lanes.finish(left)
            if left.generation == self.generation[left.partition] and left.partition in self.owned:
                self.commits.done(left.partition, left.item[2])
        while (head := self.lanes.take()) is not None:
            self.lanes.finish(head)
            self.commits.done(head.partition, head.item[2])
        assert self.lanes.waiting == 0
        assert self.lanes.running() == set()
        assert not self.lanes._lanes, "a lane is left behind"
        assert not self.lanes._ready


TestWorkerMachine = WorkerMachine.TestCase
TestWorkerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_record_that_stands_for_several_offsets_is_followed_by_the_one_behind_them() -> None:
    """C: and the offsets that it stands for are no gap that retention made."""
    commits: CommitTracker[int] = CommitTracker()
    commits.assign(0, 5)
    commits.taken(0, 5, following=9)
    assert commits.next_offset(0) == 9
    commits.done(0, 5)
    assert commits.committable() == {0: 9}
    assert commits.done_below(0) == 9
