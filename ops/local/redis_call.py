"""One command to a local Redis server, outside of any client's pools, retries and redirections."""

import socket
from typing import Any

import hiredis

from ops.local.ports import LOOPBACK

_TIMEOUT_S = 2.0
_CHUNK_BYTES = 65_536
_INCOMPLETE = object()


def call(port: int, *command: str) -> Any:
    """The reply to `command`, with strings decoded, on a connection of its own.

    Raises:
        hiredis.ReplyError: the server refused the command.
        OSError: no whole reply came in time; the command may have run.
    """
    with socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # any number of words will do
        reader = hiredis.Reader(encoding="utf-8", notEnoughData=_INCOMPLETE)
        while (reply := reader.gets()) is _INCOMPLETE:
            received = connection.recv(_CHUNK_BYTES)
            if not received:
                raise ConnectionError(f"redis-server on port {port} closed the connection")
            reader.feed(received)
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply
