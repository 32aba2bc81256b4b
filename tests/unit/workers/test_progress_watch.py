"""Whether records wait and nothing happens, seen from two numbers of each partition (H)."""

from hypothesis import given
from hypothesis import strategies as st

from workers.progress import Lag, ProgressWatch, Sample
from workers.records import Partition

P0, P1 = Partition("t", 0), Partition("t", 1)


def sample(done: int, end: int, log_end: int | None = None) -> Sample:
    return Sample(done=done, readable_end=end, log_end=end if log_end is None else log_end)


def looked(*looks: tuple[float, Sample]) -> Lag:
    """What is known of a partition after these looks."""
    watch = ProgressWatch()
    for now, each in looks:
        watch.look({P0: each}, now)
    return watch.lags[P0]


def test_a_partition_that_is_seen_for_the_first_time_does_not_stand_still() -> None:
    assert looked((100.0, sample(3, 10))) == Lag(7, 0.0, 0.0)


def test_records_that_wait_while_nothing_is_done_stand_still_since_then() -> None:
    assert looked((0.0, sample(3, 10)), (5.0, sample(3, 10)), (30.0, sample(3, 12))) == Lag(9, 30.0, 0.0)


def test_any_progress_begins_the_time_anew() -> None:
    """A backlog is no standstill."""
    assert looked((0.0, sample(3, 1_000)), (25.0, sample(4, 2_000)), (30.0, sample(4, 2_000))).still_seconds == 5.0


def test_where_nothing_waits_nothing_stands_still() -> None:
    assert looked((0.0, sample(3, 3)), (1_000.0, sample(3, 3))) == Lag(0, 0.0, 0.0)
    waits = looked((0.0, sample(3, 3)), (1_000.0, sample(3, 3)), (1_005.0, sample(3, 4)), (1_010.0, sample(3, 4)))
    assert waits.still_seconds == 10.0, "since the last look that found nothing waiting"


def test_a_partition_that_goes_back_moved() -> None:
    """It was revoked, and is read from its committed offset."""
    assert looked((0.0, sample(9, 10)), (50.0, sample(3, 10))).still_seconds == 0.0


def test_an_open_transaction_is_told_apart_from_standing_still() -> None:
    lag = looked((0.0, sample(5, 5, 9)), (20.0, sample(5, 5, 12)), (40.0, sample(5, 5, 12)))
    assert lag == Lag(7, 0.0, 40.0)


def test_one_transaction_behind_the_other_is_no_long_one() -> None:
    lag = looked((0.0, sample(5, 5, 9)), (20.0, sample(9, 9, 12)), (30.0, sample(9, 9, 12)))
    assert lag.held_by_transaction_seconds == 10.0


def test_a_transaction_that_ended_holds_nothing() -> None:
    looks = [(0.0, sample(5, 5, 9)), (20.0, sample(5, 9, 9))]
    assert looked(*looks).held_by_transaction_seconds == 0.0
    assert looked(*looks, (40.0, sample(9, 9, 10))).held_by_transaction_seconds == 0.0


def test_a_partition_that_goes_away_is_forgotten_and_begins_anew() -> None:
    watch = ProgressWatch()
    watch.look({P0: sample(3, 10), P1: sample(0, 1)}, 0.0)
    watch.look({P1: sample(0, 1)}, 30.0)
    assert watch.lags == {P1: Lag(1, 30.0, 0.0)}
    watch.look({P0: sample(3, 10)}, 60.0)
    assert watch.lags == {P0: Lag(7, 0.0, 0.0)}


numbers = st.integers(0, 4)


@given(st.lists(st.tuples(st.floats(0.1, 10.0), numbers, numbers, numbers), min_size=1))
def test_it_stands_still_exactly_as_long_as_something_waited_and_nothing_was_done(
    drawn: list[tuple[float, int, int, int]],
) -> None:
    """H"""
    watch, now, still_since, before = ProgressWatch(), 0.0, 0.0, None
    for seconds, done, more, held in drawn:
        now += seconds
        each = sample(done, done + more, done + more + held)
        if before is None or before.done != done or not more:
            still_since = now
        watch.look({P0: each}, now)
        lag = watch.lags[P0]
        assert lag.still_seconds == now - still_since
        assert lag.records == more + held
        assert (lag.held_by_transaction_seconds > 0) <= (held > 0)
        before = each
