"""The wall clock as events write it."""

import time
from functools import lru_cache

from schemas.frozen import frozen


@frozen()
class Moment:
    """An instant in both forms that events use."""

    ms: int
    """Since 1970."""
    rfc3339: str
    """In UTC, to the millisecond."""


def utc_now() -> Moment:
    ms = time.time_ns() // 1_000_000
    return Moment(ms, _rfc3339(ms))


def utc_now_rfc3339() -> str:
    return _rfc3339(time.time_ns() // 1_000_000)


def _rfc3339(ms: int) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{_to_the_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=4)
def _to_the_second(seconds: int) -> str:
    # Formatting a date costs more than everything else here, and thousands of turns share a second.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
