"""A state of trouble is told of when it begins, now and then, and when it ends."""

from store.outage import Outage


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_is_told_of_when_it_begins_and_then_once_a_while() -> None:
    time = Time()
    outage = Outage(remind_seconds=60.0, clock=time)
    told = []
    for second in range(200):
        time.now = 100.0 + second
        if outage.failed():
            told.append(second)
    assert told == [0, 60, 120, 180]
    assert outage.seconds == 199.0


def test_its_end_is_told_once_with_how_long_it_lasted() -> None:
    time = Time()
    outage = Outage(clock=time)
    outage.failed()
    time.now += 42.0
    outage.failed()
    assert outage.ended() == 42.0
    assert outage.ended() is None
    assert outage.seconds == 0.0


def test_where_nothing_failed_nothing_is_told() -> None:
    outage = Outage(clock=Time())
    assert outage.ended() is None
    assert outage.seconds == 0.0


def test_the_next_outage_is_told_of_at_once() -> None:
    time = Time()
    outage = Outage(clock=time)
    assert outage.failed()
    outage.ended()
    time.now += 1.0
    assert outage.failed()
    assert outage.seconds == 0.0
