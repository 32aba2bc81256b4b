"""How long a task that keeps failing waits."""

from ingress.backoff import Backoff


def test_waits_double_up_to_the_longest_however_long_it_lasts() -> None:
    backoff = Backoff(first_seconds=0.1, longest_seconds=1.0)
    assert [backoff.failed() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert {backoff.failed() for _ in range(5_000)} == {1.0}
    assert backoff.failures == 5_006


def test_after_a_success_the_waits_are_short_again() -> None:
    backoff = Backoff(first_seconds=0.1, longest_seconds=1.0)
    for _ in range(9):
        backoff.failed()
    backoff.succeeded()
    assert backoff.failed() == 0.1
