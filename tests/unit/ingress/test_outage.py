"""How long a task that keeps failing waits, and how often that is logged."""

from ingress.outage import Outage


def test_only_the_first_failure_and_one_a_minute_are_logged() -> None:
    outage = Outage(remind_seconds=60.0)
    assert [outage.failed(now).logged for now in (0, 1, 59, 60, 61, 119, 120)] == [
        True, False, False, True, False, False, True,
    ]  # fmt: skip


def test_waits_double_up_to_the_longest() -> None:
    outage = Outage(first_wait_seconds=0.1, longest_wait_seconds=1.0)
    assert [outage.failed(0).retry_in_seconds for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    for _ in range(5_000):
        assert outage.failed(0).retry_in_seconds == 1.0


def test_the_end_of_an_outage_is_told_once_with_how_long_it_was() -> None:
    outage = Outage()
    assert outage.ended(5) is None
    outage.failed(10)
    assert outage.lasts
    outage.failed(12)
    assert outage.ended(17) == 7
    assert outage.ended(18) is None
    assert outage.failed(20).logged
