"""How long a task that never gives up waits before it tries again."""


class Backoff:
    """Waits that double with every failure, up to the longest. No I/O, no clock."""

    def __init__(self, *, first_seconds: float, longest_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self.failures = 0
        """Since the last success."""

    def failed(self) -> float:
        """An attempt failed. Seconds to wait before the next."""
        # The exponent is bounded: a float holds no more.
        wait = min(self._longest_seconds, self._first_seconds * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return wait

    def succeeded(self) -> None:
        self.failures = 0
