"""Headers of our own records: CloudEvents 1.0 in binary mode, as its Kafka protocol binding says.

On input they are optional and never trusted for identity.
"""

from collections.abc import Sequence

Headers = Sequence[tuple[str, bytes]]


_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", b"application/json")
SEALED_CONTENT = b"application/vnd.supportstream.sealed"
"""The content type of what `schemas.sealed` describes."""


def cloud_event_headers(event_id: str, event_type: str, source: str, time: str) -> list[tuple[str, bytes]]:
    """`time` is RFC 3339, `source` a URI reference that names who wrote the record."""
    return [
        _SPECVERSION,
        ("ce_id", event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", time.encode()),
        _CONTENT_TYPE,
    ]


def with_content_type(headers: Headers, content_type: bytes) -> list[tuple[str, bytes]]:
    """The headers with another content type, where they name one."""
    return [(name, content_type if name == "content-type" else value) for name, value in headers]


def header(headers: Headers, name: str) -> bytes | None:
    """The last value under `name`, as Kafka's own clients read it."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None
