"""Our own records of the reply topic, whoever writes them."""

from schemas.headers import cloud_event_headers
from schemas.partition import home_partition
from schemas.publishing import Record
from schemas.replies import ReplyEvent
from schemas.sealed import WITHOUT_CONTENT


def reply_record(
    fact: ReplyEvent, value: bytes, *, topic: str, partitions: int, source: str, traceparent: bytes | None = None
) -> Record:
    """`value`, the bytes of `fact`, as a record in its session's home partition. `source` says who writes it."""
    headers = cloud_event_headers(fact.id, f"supportstream.{fact.type}.v1", source, fact.completed_at)
    if traceparent is not None:
        headers.append(("traceparent", traceparent))
    return Record(
        topic=topic,
        key=fact.session_id.encode(),
        value=value,
        partition=home_partition(fact.session_id, partitions),
        headers=headers,
        seal_for=None if fact.type in WITHOUT_CONTENT else fact.session_id,
    )
