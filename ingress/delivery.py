"""Who waits for which session's replies in this process."""

from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import structlog
from pydantic import ValidationError

from ingress.connection import Arrival
from schemas.deltas import decode_delta
from schemas.frames import DeltaFrame, encode_frame
from schemas.sealed import is_sealed

log = structlog.get_logger(__name__)


class Subscriber(Protocol):
    """Takes what arrives without waiting."""

    def arrived(self, arrival: Arrival) -> None: ...

    def delta(self, text: str) -> None: ...


class Delivery:
    """Subscribers by session. A session has as many as it has sockets and waiting requests here, mostly none."""

    def __init__(self, changed: Callable[[str], None] = lambda session_id: None) -> None:
        """`changed` hears of every session that a reply event comes of, whether somebody waits here or not."""
        self._changed = changed
        self._subscribers: defaultdict[bytes, set[Subscriber]] = defaultdict(set)

    def subscribe(self, session_id: str, subscriber: Subscriber) -> None:
        self._subscribers[session_id.encode()].add(subscriber)

    def unsubscribe(self, session_id: str, subscriber: Subscriber) -> None:
        """Removes this subscriber and no other of the session."""
        key = session_id.encode()
        if (subscribers := self._subscribers.get(key)) is not None:
            subscribers.discard(subscriber)
            if not subscribers:
                del self._subscribers[key]

    def waits_for(self, key: bytes | None) -> bool:
        """Whether somebody here waits for records with this key."""
        return key in self._subscribers

    def reply(self, key: bytes | None, value: bytes | None) -> None:
        """A record of the reply topic. Only those of sessions that somebody waits for are decoded; one that is still
        sealed was erased."""
        if key is not None:
            self._changed(key.decode(errors="replace"))
        subscribers = self._subscribers.get(key or b"")
        if not subscribers or value is None or is_sealed(value):
            return
        try:
            arrival = Arrival(value)
        except (ValueError, KeyError, TypeError) as error:
            log.error("reply_unreadable", session_id=(key or b"").decode(errors="replace"), error=str(error))
            return
        for subscriber in tuple(subscribers):
            subscriber.arrived(arrival)

    def delta(self, key: bytes | None, value: bytes | None) -> None:
        """A record of the delta topic."""
        subscribers = self._subscribers.get(key or b"")
        if not subscribers or value is None or is_sealed(value):
            return
        try:
            delta = decode_delta(value)
        except ValidationError as error:
            log.error("delta_unreadable", session_id=(key or b"").decode(errors="replace"), error=str(error))
            return
        text = encode_frame(DeltaFrame(id=delta.inbound_id, n=delta.n, text=delta.text))
        for subscriber in tuple(subscribers):
            subscriber.delta(text)

    @property
    def sessions(self) -> int:
        """How many sessions somebody waits for."""
        return len(self._subscribers)
