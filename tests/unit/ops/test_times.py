"""Points in time as options take them."""

from datetime import UTC, datetime

import pytest

from ops.cli.times import point_in_time
from ops.errors import UsageError

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("90s", "2026-11-24T11:58:30+00:00"),
        ("30m", "2026-11-24T11:30:00+00:00"),
        ("2h", "2026-11-24T10:00:00+00:00"),
        ("1d", "2026-11-23T12:00:00+00:00"),
        ("2w", "2026-11-10T12:00:00+00:00"),
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00+00:00"),
        ("2026-01-31T08:00:00.250+02:00", "2026-01-31T06:00:00.250000+00:00"),
    ],
)
def test_a_point_in_time_is_absolute_or_so_long_ago(text: str, point: str) -> None:
    assert point_in_time(text, NOW).isoformat() == point


@pytest.mark.parametrize(
    "text", ["", "2", "h", "2y", "-2h", "2 h", "yesterday", "2026-01-31", "2026-01-31T08:00:00", "999999999w"]
)
def test_anything_else_is_a_usage_error_that_says_what_would_do(text: str) -> None:
    with pytest.raises(UsageError, match="2h, 1d"):
        point_in_time(text, NOW)
