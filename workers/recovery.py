"""What happens when a turn fails: wait and try again, or write a dead letter and tell the customer.

The lane waits meanwhile, so only that session does.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import stamina
import structlog

from schemas.errors import InvalidRecord, NewerSchema
from schemas.publishing import BrokerUnavailable
from store.errors import LockError, LockingDisabled, LockLost, LockTimeout, StoreReplaced, StoreUnavailable, WrongKey
from workers.clock import utc_now
from workers.dead_letters import DeadLetters
from workers.errors import NotOwner, PermanentError, StoreForgot, TransientError
from workers.observer import Observer
from workers.places import Place
from workers.records import Taken
from workers.turn import Failure, TurnProcessor

log = structlog.get_logger(__name__)

UNAVAILABLE = (StoreUnavailable, BrokerUnavailable, NewerSchema)
"""Not the record's fault: waited for without end, for nothing can be decided or recorded meanwhile. What a newer worker
wrote can be read once this one is upgraded."""
ENDS_THE_LANE = (NotOwner, StoreForgot, StoreReplaced)
"""Nothing more may be done in the record's partition before the dispatcher has seen to it."""
FINAL = (InvalidRecord, PermanentError, LockingDisabled, *ENDS_THE_LANE)
"""No further attempt would go otherwise."""


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """Backoff with jitter between `wait_initial_seconds` and `wait_max_seconds`."""

    attempts: int = 5
    """How often a turn is tried before it becomes a dead letter."""
    wait_initial_seconds: float = 0.1
    wait_max_seconds: float = 5.0


class ResilientTurns:
    """Runs turns until each ended in a reply or in the dead letter topic (invariant L)."""

    def __init__(
        self, turns: TurnProcessor, dead_letters: DeadLetters, observer: Observer, settings: RetrySettings
    ) -> None:
        self._turns = turns
        self._dead_letters = dead_letters
        self._observer = observer
        self._settings = settings

    async def run(self, taken: Taken, place: Place) -> None:
        """Returns when the record's offset is done.

        Raises:
            NotOwner: it is another worker's business now; the offset is not done.
            StoreForgot, StoreReplaced: the store must be repaired first; the offset is not done.
        """
        # The outer boundary of a turn: a programming error, too, must end in the dead letter topic, not in a lane
        # that stands still.
        try:
            await self._turns.run(taken, place)
        except ENDS_THE_LANE:
            raise
        except Exception as error:
            attempts = _Attempts(self._settings.attempts, self._observer)
            final: Exception | None = error
            if attempts.may_retry(error):
                final = await self._retry(taken, place, attempts)
            if final is not None:
                await self._give_up(taken, place, final, attempts.failed)

    async def _retry(self, taken: Taken, place: Place, attempts: "_Attempts") -> Exception | None:
        """Tries until the turn succeeds (None) or fails for good."""
        try:
            async for attempt in self._backoff(attempts.may_retry):
                with attempt:
                    await self._turns.run(taken, place)
        except ENDS_THE_LANE:
            raise
        except Exception as error:
            return error
        return None

    async def _give_up(self, taken: Taken, place: Place, error: Exception, attempts: int) -> None:
        reason = error.reason if isinstance(error, (InvalidRecord, PermanentError)) else _REASONS.get(type(error))
        if reason is None:
            reason = "internal_error"
            log.error("turn_crashed", offset=str(taken.source), exc_info=error)
        detail = str(error) or type(error).__name__
        failure = Failure(reason, _told(error), attempts)
        written = False
        async for attempt in self._backoff(_is_unavailable):
            with attempt:
                if not written:
                    await self._dead_letters.write(
                        taken, reason=reason, error=detail, attempts=attempts, failed_at=utc_now().rfc3339
                    )
                    written = True
                    self._observer.dead_letter(reason)
                    log.warning("dead_letter", reason=reason, error=detail, session_id=taken.session_id)
                if taken.session_id is not None:
                    await self._tell(taken, place, failure)

    async def _tell(self, taken: Taken, place: Place, failure: Failure) -> None:
        try:
            await self._turns.run(taken, place, failure)
        except LockingDisabled:
            # A turn that fails is a turn, too: without a lock there is nobody who may write it.
            log.warning("failure_not_told", session_id=taken.session_id, code=failure.code)
        except (*ENDS_THE_LANE, *UNAVAILABLE, LockError):
            raise
        except Exception:
            # The record is safe in the dead letter topic; that the customer can't be told must not stop the lane.
            log.exception("failure_not_told", session_id=taken.session_id, code=failure.code)

    def _backoff(self, on: Callable[[Exception], bool]) -> AsyncIterator[stamina.Attempt]:
        return stamina.retry_context(
            on=on,
            attempts=None,
            timeout=None,
            wait_initial=self._settings.wait_initial_seconds,
            wait_max=self._settings.wait_max_seconds,
            wait_jitter=self._settings.wait_initial_seconds,
        ).__aiter__()


_REASONS: dict[type[Exception], str] = {
    TransientError: "retries_exhausted",
    LockTimeout: "lock_timeout",
    LockLost: "lock_lost",
    LockingDisabled: "locking_disabled",
}


class _Attempts:
    """Counts the failures that are the turn's own; that Kafka or Redis is away doesn't count."""

    def __init__(self, limit: int, observer: Observer) -> None:
        self._limit = limit
        self._observer = observer
        self.failed = 0

    def may_retry(self, error: Exception) -> bool:
        if isinstance(error, UNAVAILABLE):
            self._observer.retried(type(error).__name__)
            if isinstance(error, (WrongKey, NewerSchema)):
                log.error("session_unreadable", error=str(error))
            return True
        self.failed += 1
        if isinstance(error, FINAL) or self.failed >= self._limit:
            return False
        self._observer.retried(type(error).__name__)
        return True


def _is_unavailable(error: Exception) -> bool:
    return isinstance(error, (*UNAVAILABLE, LockError))


def _told(error: Exception) -> str:
    """What the customer reads: what was wrong with the message, but nothing of our inside."""
    if isinstance(error, InvalidRecord):
        return f"The message could not be read: {error.detail}"
    return "The message could not be answered. A person will look at it."
