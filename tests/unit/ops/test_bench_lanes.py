"""What `bench lanes` makes of its runs."""

from typing import Any

import pytest

from ops.bench.lanes import LANES, figures_of, ideal_per_s, report_of
from ops.bench.measure import BenchError

CONSUMED: dict[str, Any] = {
    "records": 200,
    "others": 200,
    "seconds": 0.02,
    "added_ms": [float(n) for n in range(200)],
    "order_broken": 0,
    "committed": 200,
}


def test_the_ideal_is_lanes_divided_by_work() -> None:
    assert ideal_per_s(10.0) == LANES / 0.010


def test_a_run_becomes_a_rate_and_delays() -> None:
    figures = figures_of(CONSUMED, 200)
    assert figures == {"records_per_s": 10_000.0, "added_ms_p50": 100.0, "added_ms_p99": 198.0}


@pytest.mark.parametrize("wrong", [{"order_broken": 1}, {"records": 199}, {"committed": 199}])
def test_a_run_that_was_not_right_has_no_figures(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError):
        figures_of({**CONSUMED, **wrong}, 200)


def test_a_report_has_the_share_of_the_ideal_by_medians() -> None:
    runs = {
        10.0: [
            {"records_per_s": rate, "added_ms_p50": 0.1, "added_ms_p99": 1.0} for rate in (9_000.0, 9_500.0, 9_900.0)
        ],
        0.0: [{"records_per_s": 50_000.0, "added_ms_p50": 0.1, "added_ms_p99": 1.0}],
    }
    report = report_of(runs, {"rounds": 3})
    assert report.ratios == {"work_10ms": 0.95}
    assert report.figures["work"]["0 ms"]["records_per_s"] == 50_000.0
