"""Deltas: pieces of an answer while it is made. Short-lived and best effort; the reply is the truth."""

import orjson
from pydantic import TypeAdapter

from schemas.frozen import frozen
from schemas.identity import InboundId, SessionId


@frozen(kw_only=True)
class Delta:
    """The `n`-th piece (from 0) of the answer to the inbound event `inbound_id`."""

    session_id: SessionId
    inbound_id: InboundId
    n: int
    text: str


_DELTA = TypeAdapter(Delta)


def decode_delta(value: bytes) -> Delta:
    """Raises pydantic.ValidationError when it isn't one."""
    return _DELTA.validate_json(value)


def encode_delta(delta: Delta) -> bytes:
    return orjson.dumps(delta)
