"""Commands on the inbound topic and the fact that comes back on the reply topic."""

import asyncio

from pydantic import ValidationError

from ingress.connection import Arrival
from ingress.delivery import Delivery
from ingress.errors import answer_unreadable
from ingress.history import arrivals_after
from ingress.inbound import InboundPublisher
from schemas.errors import NewerSchema
from schemas.inbound import InboundEvent
from schemas.replies import ReplyEvent, TurnFailed
from store.cached import SessionReads


class _Waiter:
    """A subscriber for the one event that answers `inbound_id`.

    An invalid event is none: the wait goes on. One of a newer schema is the answer, which can't be read here.
    """

    def __init__(self, inbound_id: str) -> None:
        self._inbound_id = inbound_id
        self.fact: asyncio.Future[ReplyEvent | NewerSchema] = asyncio.get_running_loop().create_future()

    def arrived(self, arrival: Arrival) -> None:
        if arrival.inbound_id != self._inbound_id or self.fact.done():
            return
        try:
            self.fact.set_result(arrival.event())
        except NewerSchema as error:
            self.fact.set_result(error)
            raise

    def delta(self, text: str) -> None:
        return None


class Facts:
    """Publishes an event and waits for what a worker made of it."""

    def __init__(self, inbound: InboundPublisher, delivery: Delivery, store: SessionReads) -> None:
        self._inbound = inbound
        self._delivery = delivery
        self._store = store

    async def request(self, event: InboundEvent, wait_seconds: float) -> ReplyEvent | None:
        """The fact, or None when it is not there in time; the event is accepted all the same.

        Raises:
            IngressError: Kafka did not take the event; or (502) it is answered, and the answer can't be read here.
            StoreUnavailable: the store can't be asked whether the event was answered before.
        """
        waiter = _Waiter(event.id)
        self._delivery.subscribe(event.session_id, waiter)
        try:
            # A repeated request: its answer may have been given long ago and won't come again.
            for arrival in reversed(await arrivals_after(self._store, event.session_id, 0)):
                # A failure that may be tried again is no answer to the message that tries it.
                if arrival.inbound_id == event.id and not _is_redrivable(fact := _readable(arrival)):
                    return fact
            if not waiter.fact.done():
                await self._inbound.publish(event)
            async with asyncio.timeout(wait_seconds):
                answer = await waiter.fact
            if isinstance(answer, NewerSchema):
                raise answer_unreadable() from answer
            return answer
        except TimeoutError:
            return None
        finally:
            self._delivery.unsubscribe(event.session_id, waiter)


def _readable(arrival: Arrival) -> ReplyEvent | None:
    """The event that is stored; None when it is invalid, which is as if it were not there.

    Raises:
        IngressError: a later version of this program wrote it.
    """
    try:
        return arrival.event()
    except NewerSchema as error:
        raise answer_unreadable() from error
    except ValidationError:
        return None


def _is_redrivable(fact: ReplyEvent | None) -> bool:
    return fact is None or (isinstance(fact, TurnFailed) and fact.redrivable)
