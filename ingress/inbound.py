"""Publishing on the inbound topic, keyed by session, with what our own records carry in their headers."""

from collections.abc import Callable

from ingress.errors import IngressError, unavailable
from schemas.frames import ErrorCode
from schemas.headers import cloud_event_headers
from schemas.inbound import InboundEvent, encode_inbound
from schemas.partition import home_partition
from schemas.publishing import BrokerUnavailable, Publisher, Record, RecordTooLarge
from schemas.topics import TopicNames


class InboundPublisher:
    """Hands inbound events to Kafka. `partitions` is the inbound topic's count."""

    def __init__(
        self,
        publisher: Publisher,
        topics: TopicNames,
        partitions: int,
        now: Callable[[], str],
        accepted: Callable[[], None],
    ) -> None:
        self._publisher = publisher
        self._topic = topics.inbound
        self._partitions = partitions
        self._now = now
        self._accepted = accepted

    async def publish(self, event: InboundEvent) -> None:
        """Returns when Kafka has the event.

        Raises:
            IngressError: it does not; the client should send the same id again.
        """
        headers = cloud_event_headers(event.id, f"supportstream.{event.type}.v1", "/ingress", self._now())
        record = Record(
            topic=self._topic,
            key=event.session_id.encode(),
            value=encode_inbound(event),
            partition=home_partition(event.session_id, self._partitions),
            headers=headers,
        )
        try:
            await self._publisher.publish(record)
        except BrokerUnavailable as error:
            raise unavailable("Messages can't be taken at the moment.") from error
        except RecordTooLarge as error:
            raise IngressError(413, ErrorCode.TOO_LARGE, str(error)) from error
        self._accepted()
