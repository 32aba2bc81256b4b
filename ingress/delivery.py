"""The sockets and requests of this process that wait for replies, by session."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import ValidationError

from ingress.connection import Arrival
from ingress.refusals import RecordRefused
from schemas.deltas import decode_delta
from schemas.errors import NewerSchema
from schemas.frames import DeltaFrame, encode_frame
from schemas.sealed import is_sealed

_SUBSCRIBER_ERRORS = (Exception, asyncio.CancelledError)
"""A subscriber doesn't wait, so what is cancelled is something of its own, and not the reader that tells it."""


class Subscriber(Protocol):
    """Takes what arrives without waiting. What it raises is counted against the record, and costs no other
    subscriber: NewerSchema and ValidationError where it can't read the event."""

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
        """A record of the reply topic. Only those of sessions that have a subscriber are decoded; one that is still
        sealed was erased.

        Raises:
            RecordRefused: it is no reply event, or a subscriber could not take it; all others have it.
        """
        failures: list[BaseException] = []
        if key is not None:
            try:
                self._changed(key.decode(errors="replace"))
            except _SUBSCRIBER_ERRORS as error:
                failures.append(error)
        subscribers = self._subscribers.get(key or b"")
        if subscribers and value is not None and not is_sealed(value):
            try:
                arrival = Arrival(value)
            except Exception as error:
                # Nothing validated these bytes: whatever type of error they lead to is theirs.
                raise RecordRefused("unreadable", "it is no reply event") from error
            if arrival.session_id.encode() != key:
                raise RecordRefused("key_mismatch", "the event is of another session than the record's key")
            # A copy: one may leave while it is told.
            for subscriber in tuple(subscribers):
                try:
                    subscriber.arrived(arrival)
                except _SUBSCRIBER_ERRORS as error:
                    failures.append(error)
        if failures:
            raise _refusal(failures) from failures[0]

    def delta(self, key: bytes | None, value: bytes | None) -> None:
        """A record of the delta topic. Raises as `reply`."""
        subscribers = self._subscribers.get(key or b"")
        if not subscribers or value is None or is_sealed(value):
            return
        try:
            delta = decode_delta(value)
            text = encode_frame(DeltaFrame(id=delta.inbound_id, n=delta.n, text=delta.text))
        except Exception as error:
            raise RecordRefused("unreadable", "it is no piece of an answer") from error
        if delta.session_id.encode() != key:
            raise RecordRefused("key_mismatch", "the piece is of another session than the record's key")
        failures: list[BaseException] = []
        for subscriber in tuple(subscribers):
            try:
                subscriber.delta(text)
            except _SUBSCRIBER_ERRORS as error:
                failures.append(error)
        if failures:
            raise _refusal(failures) from failures[0]

    @property
    def sessions(self) -> int:
        """How many sessions somebody waits for."""
        return len(self._subscribers)


def _refusal(failures: Sequence[BaseException]) -> RecordRefused:
    """What the record is refused with, named by the first failure."""
    match failures[0]:
        case NewerSchema() as error:
            return RecordRefused("newer_schema", str(error))
        case ValidationError():
            return RecordRefused("invalid_event", "a request waits for it and can't read it")
        case _:
            return RecordRefused("subscriber_failed", f"{len(failures)} subscribers could not take it")
