"""Ask a Kafka-protocol server which brokers serve, in one blocking round trip without a client library."""

import socket
import struct
from typing import BinaryIO

from ops.local.ports import LOOPBACK

_METADATA, _VERSION, _CORRELATION_ID = 3, 1, 1
_TIMEOUT_S = 1.0


def live_brokers(port: int) -> frozenset[int]:
    """The node ids in the Metadata answer (version 1) of the broker on the loopback `port`.

    A KRaft broker accepts connections before the controller lets it serve; only then is it among them.
    Layout: https://kafka.apache.org/protocol#The_Messages_Metadata

    Raises:
        OSError: nothing listens, or no complete answer came within a second of silence.
    """
    header = struct.pack(">hhih", _METADATA, _VERSION, _CORRELATION_ID, -1)
    no_topics = struct.pack(">i", 0)
    request = header + no_topics
    with socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            _size, correlation_id, count = struct.unpack(">iii", _exactly(answer, 12))
            if correlation_id != _CORRELATION_ID:
                raise ConnectionError(f"the answer is to request {correlation_id}")
            return frozenset(_broker(answer) for _ in range(count))


def _broker(answer: BinaryIO) -> int:
    (node_id,) = struct.unpack(">i", _exactly(answer, 4))
    _skip_string(answer)  # host
    _exactly(answer, 4)  # port
    _skip_string(answer)  # rack, null is length -1
    return int(node_id)


def _skip_string(answer: BinaryIO) -> None:
    (length,) = struct.unpack(">h", _exactly(answer, 2))
    _exactly(answer, max(length, 0))


def _exactly(answer: BinaryIO, size: int) -> bytes:
    data = answer.read(size)
    if len(data) < size:
        raise ConnectionError("the connection was closed in the middle of the answer")
    return data
