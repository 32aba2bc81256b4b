"""A run of failures of a task that never gives up: how long it waits before it tries again, and what is logged."""

from schemas.frozen import frozen


@frozen()
class Failure:
    """What to do after a failed attempt."""

    retry_in_seconds: float
    logged: bool
    """Whether this failure is logged: the first of an outage is, then one in every `remind_seconds`."""
    attempts: int
    lasted_seconds: float


class Outage:
    """Counts the failures since the last success. It has no clock: the caller says what time it is."""

    def __init__(
        self, *, first_wait_seconds: float = 0.1, longest_wait_seconds: float = 5.0, remind_seconds: float = 60.0
    ) -> None:
        self._first_wait = first_wait_seconds
        self._longest_wait = longest_wait_seconds
        self._remind = remind_seconds
        self._attempts = 0
        self._began = 0.0
        self._logged = 0.0

    @property
    def lasts(self) -> bool:
        return self._attempts > 0

    def failed(self, now: float) -> Failure:
        """An attempt failed. The wait doubles with each, up to the longest."""
        logged = self._attempts == 0 or now - self._logged >= self._remind
        if self._attempts == 0:
            self._began = now
        if logged:
            self._logged = now
        wait = min(self._longest_wait, self._first_wait * 2 ** min(self._attempts, 30))
        self._attempts += 1
        return Failure(wait, logged, self._attempts, now - self._began)

    def ended(self, now: float) -> float | None:
        """An attempt succeeded. Seconds that the outage lasted, or None when there was none."""
        if self._attempts == 0:
            return None
        self._attempts = 0
        return now - self._began
