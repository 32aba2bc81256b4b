"""What the store has of a session's replies, for resuming and for looking back."""

import structlog

from ingress.connection import Arrival
from schemas.frames import Position
from store.cached import SessionReads

log = structlog.get_logger(__name__)


async def arrivals_after(store: SessionReads, session_id: str, seq: int) -> list[Arrival]:
    """The session's newest events that follow `seq`, oldest first, as far back as the store keeps them. One that can't
    be read is left out, so that the others are still shown; `recovered` then says that something is missing."""
    arrivals = []
    for event in await store.events(session_id, seq):
        try:
            arrivals.append(Arrival(event))
        except Exception as error:
            log.error("stored_event_unreadable", session_id=session_id, error=str(error) or type(error).__name__)
    return [arrival for arrival in arrivals if arrival.at[1] > seq]


async def since(store: SessionReads, session_id: str, resume: Position | None) -> tuple[tuple[int, int], list[Arrival]]:
    """Where the session stands ((0, 0): nowhere yet), and the events that a client at `resume` misses.

    A client without a position misses nothing; one with a position in another epoch misses all of this one.
    """
    newest = await store.newest_event(session_id)
    if newest is None:
        return (0, 0), []
    at = Arrival(newest).at
    if resume is None or (resume.epoch, resume.seq) == at:
        return at, []
    missed = await arrivals_after(store, session_id, resume.seq if resume.epoch == at[0] else 0)
    # Read again: the session may have gone on since.
    return (missed[-1].at if missed else at), missed
