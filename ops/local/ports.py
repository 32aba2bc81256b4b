"""Free TCP ports on the loopback interface."""

import secrets
import socket
from collections import deque

LOOPBACK = "127.0.0.1"

# Below the ports that Linux (from 32768) and macOS (from 49152) give to outgoing connections. A server that
# is killed and restarted needs its port back: in that range a client's attempt to reconnect may take the port
# first, or even connect to itself on it.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 1_000
_given: deque[int] = deque(maxlen=4_000)
"""What was given out last. A server may listen only seconds later; until then nobody else gets its port."""


def free_ports(count: int) -> tuple[int, ...]:
    """Return `count` different ports on which nothing listens now.

    Other processes may be given them as well: start the server soon.

    Raises:
        OSError: after 1,000 random ports not enough were free.
    """
    bound: list[socket.socket] = []
    try:
        for _ in range(_ATTEMPTS):
            if len(bound) == count:
                break
            port = _FIRST + secrets.randbelow(_LAST - _FIRST)
            if port in _given:
                continue
            candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                candidate.bind((LOOPBACK, port))
            except OSError:
                candidate.close()
            else:
                bound.append(candidate)
        if len(bound) < count:
            raise OSError(f"no {count} free ports found between {_FIRST} and {_LAST}")
        ports = tuple(sock.getsockname()[1] for sock in bound)
        _given.extend(ports)
        return ports
    finally:
        for sock in bound:
            sock.close()


def free_port() -> int:
    """Return one port on which nothing listens now; see `free_ports`."""
    return free_ports(1)[0]
