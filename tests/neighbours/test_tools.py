"""The tools of these tests do what they say: a proxy that resets and falls silent, a bit that is flipped."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.local.ports import LOOPBACK
from tests.neighbours.rst_proxy import RstProxy, Side
from tests.neighbours.segments import StoredBatch
from tests.polling import wait_until

PATIENCE_S = 10.0
SILENCE_S = 0.3
"""So long nothing may be heard of a connection that is silent; one that is closed or reset shows at once."""


@dataclass(frozen=True)
class Ends:
    """Both ends of a connection through the proxy."""

    proxy: RstProxy
    client: socket.socket
    server: socket.socket


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.settimeout(PATIENCE_S)
        yield listener


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[RstProxy]:
    with RstProxy(listener.getsockname()[1]) as proxy:
        yield proxy


@contextmanager
def connected(proxy: RstProxy, listener: socket.socket) -> Iterator[Ends]:
    with socket.create_connection((LOOPBACK, proxy.port), timeout=PATIENCE_S) as client:
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE_S)
            wait_until(lambda: proxy.connections == 1, "the proxy knows the connection")
            client.sendall(b"ping")
            assert server.recv(4) == b"ping"
            server.sendall(b"pong")
            assert client.recv(4) == b"pong"
            yield Ends(proxy, client, server)


def how_it_ends(end: socket.socket) -> str:
    try:
        return "end" if end.recv(64) == b"" else "data"
    except ConnectionResetError:
        return "reset"


@pytest.mark.parametrize(
    ("towards", "client", "server"),
    [(Side.CLIENT, "reset", "end"), (Side.SERVER, "end", "reset"), (Side.BOTH, "reset", "reset")],
)
def test_an_idle_connection_is_reset_towards_the_side_that_was_named(
    proxy: RstProxy, listener: socket.socket, towards: Side, client: str, server: str
) -> None:
    with connected(proxy, listener) as ends:
        assert proxy.reset_all(towards) == 1
        assert (how_it_ends(ends.client), how_it_ends(ends.server)) == (client, server)
        assert proxy.resets == 1
    wait_until(lambda: proxy.connections == 0, "the proxy forgot the connection")
    with connected(proxy, listener):
        assert proxy.resets == 1, "a new connection works"


@pytest.mark.parametrize("cut", [Side.CLIENT, Side.SERVER])
def test_an_exchange_is_cut_in_the_middle_of_what_one_side_sends(
    proxy: RstProxy, listener: socket.socket, cut: Side
) -> None:
    with connected(proxy, listener) as ends:
        speaker, hearer = (ends.client, ends.server) if cut is Side.CLIENT else (ends.server, ends.client)
        proxy.reset_next_exchange(cut)
        hearer.sendall(b"from the other side")
        assert speaker.recv(64) == b"from the other side"
        assert proxy.armed == 1, "the other side may say what it likes"
        speaker.sendall(b"0123456789")
        assert hearer.recv(64) == b"01234"
        assert (how_it_ends(speaker), how_it_ends(hearer)) == ("reset", "reset")
        assert proxy.armed == 0


def test_a_connection_that_lost_bytes_stays_silent_and_a_new_one_works(
    proxy: RstProxy, listener: socket.socket
) -> None:
    with connected(proxy, listener) as ends:
        with proxy.silence():
            ends.client.sendall(b"lost")
            wait_until(lambda: proxy.swallowed_bytes == 4, "the bytes are gone")
        ends.client.sendall(b"lost, too")
        ends.server.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            ends.server.recv(64)
        proxy.reset_all()
    wait_until(lambda: proxy.connections == 0, "the proxy forgot the connection")
    with connected(proxy, listener):
        pass


def test_a_bit_is_flipped_among_the_records_and_the_same_again_puts_it_right(tmp_path: Path) -> None:
    segment = tmp_path / "00000000000000000000.log"
    content = bytes(range(256))
    segment.write_bytes(content)
    batch = StoredBatch(segment, 100, 120, 0, 0, "none", False)
    batch.flip_a_bit()
    changed = [place for place, byte in enumerate(segment.read_bytes()) if byte != content[place]]
    assert len(changed) == 1
    assert 161 <= changed[0] < 220, "behind the batch's header and in the batch"
    batch.flip_a_bit()
    assert segment.read_bytes() == content
