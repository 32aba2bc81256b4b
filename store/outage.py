"""When a state of trouble is worth a log line, how an error is told in one, and which cancellations are errors."""

import asyncio
import time
from collections.abc import Callable

REMIND_SECONDS = 60.0


class Outage:
    """One thing that works or doesn't. No I/O."""

    def __init__(self, *, remind_seconds: float = REMIND_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._remind_seconds = remind_seconds
        self._clock = clock
        self._began_at: float | None = None
        self._said_at = 0.0

    def failed(self) -> bool:
        """It does not work. Returns whether that is to be logged now."""
        now = self._clock()
        if self._began_at is None:
            self._began_at = self._said_at = now
            return True
        if now < self._said_at + self._remind_seconds:
            return False
        self._said_at = now
        return True

    def ended(self) -> float | None:
        """It works. Returns how many seconds it did not, once; None where it worked before."""
        if self._began_at is None:
            return None
        lasted, self._began_at = self._clock() - self._began_at, None
        return lasted

    @property
    def seconds(self) -> float:
        """How long it has not worked; 0 while it does."""
        return 0.0 if self._began_at is None else self._clock() - self._began_at


def is_cancelled() -> bool:
    """Whether the present task itself was told to end; else a CancelledError is of something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def describe(error: BaseException) -> str:
    """An error in a line; some of Kafka's have no text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
