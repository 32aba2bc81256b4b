"""Publishing on the inbound topic, keyed by session, with what our own records carry in their headers."""

from collections.abc import Callable

from ingress.errors import IngressError, unavailable
from ingress.homes import Homes
from schemas.frames import ErrorCode
from schemas.headers import cloud_event_headers
from schemas.inbound import InboundEvent, encode_inbound
from schemas.publishing import BrokerUnavailable, Publisher, Record, RecordTooLarge
from schemas.sealed import WITHOUT_CONTENT
from schemas.topics import TopicNames


class InboundPublisher:
    """Hands inbound events to Kafka, to the partitions that `homes` chooses."""

    def __init__(
        self,
        publisher: Publisher,
        topics: TopicNames,
        homes: Homes,
        now: Callable[[], str],
        accepted: Callable[[], None],
    ) -> None:
        self._publisher = publisher
        self._topic = topics.inbound
        self._homes = homes
        self._now = now
        self._accepted = accepted

    async def publish(self, event: InboundEvent) -> None:
        """Returns when Kafka has the event.

        Raises:
            IngressError: it does not; the client should send the same id again.
        """
        headers = cloud_event_headers(event.id, f"supportstream.{event.type}.v1", "/ingress", self._now())
        value = encode_inbound(event)
        home = self._homes.choose(event.session_id)
        seal_for = None if event.type in WITHOUT_CONTENT else event.session_id
        record = Record(self._topic, event.session_id.encode(), value, home.partition, headers, seal_for)
        try:
            position = await self._publisher.publish(record)
        except BaseException as error:
            self._homes.failed(home)
            if isinstance(error, BrokerUnavailable):
                raise unavailable("Messages can't be taken at the moment.") from error
            if isinstance(error, RecordTooLarge):
                raise IngressError(413, ErrorCode.TOO_LARGE, str(error)) from error
            raise
        self._homes.published(home, position.offset)
        self._accepted()
