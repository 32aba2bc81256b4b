"""Points in time as options take them."""

import re
from datetime import UTC, datetime, timedelta

from ops.errors import UsageError

_AGO = re.compile(r"(\d{1,9})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def point_in_time(text: str, now: datetime) -> datetime:
    """In UTC; from RFC 3339, or from how long ago it was: `90s`, `30m`, `2h`, `1d`, `1w`. Raises UsageError."""
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        point = datetime.fromisoformat(text)
        if point.tzinfo is None:
            raise ValueError("it has no time zone")
        return point.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no point in time ({error}); say 2026-01-31T08:00:00Z, or how long ago: 30m, 2h, 1d"
        ) from error
