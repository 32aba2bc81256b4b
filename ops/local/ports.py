"""Free TCP ports on the loopback interface."""

import secrets
import socket

LOOPBACK = "127.0.0.1"

# Below the ports that Linux (from 32768) and macOS (from 49152) give to outgoing connections. A server that
# is killed and restarted needs its port back: in that range a client's attempt to reconnect may take the port
# first, or even connect to itself on it.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 1_000


def free_ports(count: int) -> tuple[int, ...]:
    """Return `count` different ports on which nothing listens now.

    Nothing reserves them afterwards: start the server soon.

    Raises:
        OSError: after 1,000 random ports not enough were free.
    """
    bound: list[socket.socket] = []
    try:
        for _ in range(_ATTEMPTS):
            if len(bound) == count:
                break
            candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                candidate.bind((LOOPBACK, _FIRST + secrets.randbelow(_LAST - _FIRST)))
            except OSError:
                candidate.close()
            else:
                bound.append(candidate)
        if len(bound) < count:
            raise OSError(f"no {count} free ports found between {_FIRST} and {_LAST}")
        return tuple(sock.getsockname()[1] for sock in bound)
    finally:
        for sock in bound:
            sock.close()


def free_port() -> int:
    """Return one port on which nothing listens now; see `free_ports`."""
    return free_ports(1)[0]
