"""What the store has of a session's replies, for resuming and for looking back."""

from ingress.connection import Arrival
from schemas.frames import Position
from store.cached import SessionReads


async def arrivals_after(store: SessionReads, session_id: str, seq: int) -> list[Arrival]:
    """The session's newest events that follow `seq`, oldest first, as far back as the store keeps them."""
    arrivals = [Arrival(event) for event in await store.events(session_id, seq)]
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
