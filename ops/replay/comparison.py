"""What a rebuilt session and the live one have to do with each other. No I/O, no clock."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from schemas.session import SessionData
from store.redis.working_copy import Pair

Kind = Literal["same", "created", "changed", "removed", "ahead", "expired", "not_retained"]

TTL_TOLERANCE_SECONDS = 60.0
"""A session lives from when it was written, which is a little after the time that its event has."""
_FIELDS = tuple(each.name for each in fields(SessionData))


@dataclass(frozen=True, slots=True)
class Difference:
    """What a replay does with one session.

    | kind | |
    |---|---|
    | same | nothing |
    | created | the store lacks it |
    | changed | the store has it otherwise: `changes` |
    | removed | the store has it, the topics never had |
    | ahead | the store is newer; its newest reply is on its way, or came later than the replay read |
    | expired | it ended; it stays gone |
    | not_retained | the topics have not, or no longer, what it needs; what is live stays |
    """

    session_id: str
    kind: Kind
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Per field that differs: as it is live, as it was rebuilt."""


def compare(pair: Pair, *, ttl_seconds: float, now: float) -> Difference:
    """The sessions, without their events. `ttl_seconds`: how long a session lives that says nothing else;
    `now` in seconds since 1970."""
    session_id, rebuilt, live = pair.session_id, pair.rebuilt, pair.live
    assert rebuilt is not None
    left = rebuilt.expires_at(ttl_seconds) - now
    if live is None and not pair.unreadable:
        return Difference(session_id, "created" if left > 0 else "expired")
    if (pair.live_epoch, pair.live_version) > (rebuilt.epoch, rebuilt.version):
        return Difference(session_id, "ahead")
    if live is None:
        return Difference(session_id, "changed", {"unreadable": (pair.unreadable, None)})
    changes = changed_fields(live, rebuilt)
    if abs(pair.live_ttl_seconds - left) > TTL_TOLERANCE_SECONDS:
        changes["expires_in_seconds"] = (round(pair.live_ttl_seconds), round(left))
    return Difference(session_id, "changed" if changes else "same", changes)


def changed_fields(live: SessionData, rebuilt: SessionData) -> dict[str, tuple[Any, Any]]:
    """None when they are equal in their canonical form."""
    if live.to_json() == rebuilt.to_json():
        return {}
    pairs = {name: (getattr(live, name), getattr(rebuilt, name)) for name in _FIELDS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def compare_events(live: list[bytes], rebuilt: list[bytes]) -> dict[str, tuple[Any, Any]]:
    """The newest events, by their digests, oldest first. Of those rebuilt, older ones may be no longer retained."""
    if live == rebuilt or (rebuilt and live[-len(rebuilt) :] == rebuilt):
        return {}
    pairs = zip(reversed(live), reversed(rebuilt), strict=False)
    differs = next((n for n, (one, other) in enumerate(pairs, 1) if one != other), None)
    if differs is None:
        return {"events": (f"{len(live)} of them", f"{len(rebuilt)} of them")}
    return {"events": (f"{len(live)} of them", f"{len(rebuilt)}; the newest but {differs - 1} differs")}
