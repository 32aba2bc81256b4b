"""The tools of the fault tests do what they say: a network that is cut or slow, a disk that is full."""

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from ops.local.kafka_cluster import KafkaCluster
from ops.local.ports import free_port
from ops.local.process import ServerProcess
from ops.local.redis import RedisServer
from tests.chaos.network import NetworkNamespace, NoNetworkNamespaces
from tests.chaos.small_disk import NoSmallDisk, SmallDisk
from tests.polling import wait_until

pytestmark = pytest.mark.chaos

SILENCE_S = 1.5
"""So long nothing may be heard of a network that is cut; a closed or refused connection shows at once."""
PATIENCE_S = 30.0

TALKER = """
import socket, sys, threading
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def say():
    for line in sys.stdin.buffer:
        connection.sendall(line)
threading.Thread(target=say, daemon=True).start()
while data := connection.recv(65536):
    connection.sendall(data)
"""
"""Says what it gets on its standard input, and repeats what it hears."""

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])).close()
except OSError as error:
    print(type(error).__name__, error)
else:
    print("connected")
"""

PING = """
import redis, sys
try:
    print(redis.Redis.from_url(sys.argv[1], socket_timeout=1.5, socket_connect_timeout=1.5, retry=None).ping())
except redis.RedisError as error:
    print(type(error).__name__)
"""

BROKERS = """
import asyncio, sys
from aiokafka.client import AIOKafkaClient
async def main():
    client = AIOKafkaClient(bootstrap_servers=sys.argv[1])
    await client.bootstrap()
    print(*(f"{broker.host}:{broker.port}" for broker in client.cluster.brokers()))
    await client.close()
asyncio.run(main())
"""


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        yield namespace


def inside(namespace: NetworkNamespace, program: str, *arguments: object) -> str:
    """What the Python program printed."""
    command = [*namespace.prefix, sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout.strip()


@contextmanager
def talker(namespace: NetworkNamespace) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A program inside and our end of its connection, whose calls take `SILENCE_S` at most."""
    with socket.create_server((namespace.host_address, 0)) as server:
        server.settimeout(PATIENCE_S)
        command = [*namespace.prefix, sys.executable, "-c", TALKER, namespace.host_address]
        with subprocess.Popen([*command, str(server.getsockname()[1])], stdin=subprocess.PIPE, bufsize=0) as program:
            try:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(SILENCE_S)
                    yield program, connection
            finally:
                program.kill()


def say(program: subprocess.Popen[bytes], words: bytes) -> None:
    assert program.stdin is not None
    program.stdin.write(words)


def hear(connection: socket.socket, size: int) -> bytes:
    """The next bytes, for which it waits longer than the connection's timeout."""
    heard = b""
    connection.settimeout(PATIENCE_S)
    while len(heard) < size:
        more = connection.recv(size - len(heard))
        assert more, f"closed after {heard!r}"
        heard += more
    connection.settimeout(SILENCE_S)
    return heard


def test_a_connection_hangs_while_the_network_is_cut_and_then_goes_on(namespace: NetworkNamespace) -> None:
    with talker(namespace) as (program, connection):
        connection.sendall(b"one\n")
        assert hear(connection, 4) == b"one\n"

        namespace.cut()
        say(program, b"two\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(b"three\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)

        namespace.restore()
        assert sorted(hear(connection, 10).split()) == [b"three", b"two"]
        say(program, b"four\n")
        assert hear(connection, 5) == b"four\n"


def test_nobody_gets_through_while_the_network_is_cut(namespace: NetworkNamespace) -> None:
    with socket.create_server((namespace.host_address, 0)) as server:
        here = server.getsockname()
        assert inside(namespace, CONNECT, *here, PATIENCE_S) == "connected"

        namespace.cut()
        assert inside(namespace, CONNECT, *here, SILENCE_S) == "TimeoutError timed out"
        with pytest.raises(TimeoutError):
            socket.create_connection((namespace.address, 1), timeout=SILENCE_S)
        socket.create_connection(here, timeout=PATIENCE_S).close()

        namespace.restore()
        assert inside(namespace, CONNECT, *here, PATIENCE_S) == "connected"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((namespace.address, 1), timeout=PATIENCE_S)


def test_a_cut_network_can_be_cut_and_restored_twice(namespace: NetworkNamespace) -> None:
    with socket.create_server((namespace.host_address, 0)) as server:
        for change in (namespace.restore, namespace.cut, namespace.cut, namespace.restore, namespace.restore):
            change()
        assert inside(namespace, CONNECT, *server.getsockname(), PATIENCE_S) == "connected"


def test_a_slow_network_slows_in_both_directions(namespace: NetworkNamespace) -> None:
    size = 48 * 1024
    with talker(namespace) as (program, connection):

        def seconds_to_hear() -> float:
            begun = time.monotonic()
            say(program, b"x" * (size - 1) + b"\n")
            hear(connection, size)
            return time.monotonic() - begun

        def seconds_to_repeat() -> float:
            begun = time.monotonic()
            connection.sendall(b"x" * size)
            hear(connection, size)
            return time.monotonic() - begun

        fast = max(seconds_to_hear(), seconds_to_repeat())
        namespace.slow(256)
        out, there_and_back = seconds_to_hear(), seconds_to_repeat()
        namespace.unslow()
        again = max(seconds_to_hear(), seconds_to_repeat())

    # 48 KiB at 256 kbit/s are 1.5 s; the way back goes on at the same time, but no faster.
    assert 1.0 < out < 10
    assert 1.0 < there_and_back < 10
    assert max(fast, again) < out / 3


def test_a_program_inside_is_reached_from_here_unless_cut(namespace: NetworkNamespace, tmp_path: Path) -> None:
    port = free_port()
    command = [*namespace.prefix, sys.executable, "-m", "http.server", str(port), "--bind", "0.0.0.0"]
    with ServerProcess("http.server", command, log_path=tmp_path / "log") as server:
        server.start()
        url = f"http://{namespace.address}:{port}"
        wait_until(lambda: httpx.get(url, timeout=1.0).status_code == 200, "it answers")
        namespace.cut()
        with pytest.raises(httpx.ConnectTimeout):
            httpx.get(url, timeout=SILENCE_S)
        namespace.restore()
        wait_until(lambda: httpx.get(url, timeout=1.0).status_code == 200, "it answers again")


def test_two_namespaces_are_cut_apart_from_each_other(namespace: NetworkNamespace) -> None:
    with NetworkNamespace() as other, socket.create_server((other.host_address, 0)) as server:
        assert other.host_address != namespace.host_address
        namespace.cut()
        assert inside(other, CONNECT, *server.getsockname(), PATIENCE_S) == "connected"


def test_nothing_is_left_even_after_a_failure(tmp_path: Path) -> None:
    namespace = NetworkNamespace()
    sleeper = ServerProcess("the sleeper", [*namespace.prefix, "sleep", "600"], log_path=tmp_path / "log")

    def fail() -> None:
        with namespace:
            assert namespace.name in left_of(namespace)
            namespace.cut()
            namespace.slow(64)
            sleeper.start()
            wait_until(lambda: str(sleeper.pid) in pids(namespace), "it runs inside")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    wait_until(lambda: not sleeper.running, "it is ended")
    assert sleeper.stop() == -9
    assert left_of(namespace) == ""


def test_nothing_is_left_of_one_that_could_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.network._ATTEMPTS", 0)
    namespace = NetworkNamespace()
    with pytest.raises(NoNetworkNamespaces, match="in use"), namespace:
        pass
    assert left_of(namespace) == ""


def pids(namespace: NetworkNamespace) -> list[str]:
    return subprocess.check_output(["ip", "netns", "pids", namespace.name], text=True).split()


def left_of(namespace: NetworkNamespace) -> str:
    """The lines of `ip` that name it; others may have namespaces of their own."""
    commands = (["ip", "netns", "list"], ["ip", "-oneline", "link"])
    lines = [line for command in commands for line in subprocess.check_output(command, text=True).splitlines()]
    return "\n".join(line for line in lines if namespace.name in line)


def test_what_is_missing_for_a_namespace_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("sys.platform", "darwin")
        with pytest.raises(NoNetworkNamespaces, match=r"Linux.*darwin"), NetworkNamespace():
            pass
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(tmp_path))
        with pytest.raises(NoNetworkNamespaces, match=r"ip and tc.*install iproute2"), NetworkNamespace():
            pass
    for program in ("ip", "tc"):
        (tmp_path / program).touch(0o755)
    with monkeypatch.context() as somebody:
        somebody.setattr("os.geteuid", lambda: 1000)
        somebody.setenv("PATH", str(tmp_path))
        with pytest.raises(NoNetworkNamespaces, match="need root, or sudo"), NetworkNamespace():
            pass


def test_redis_here_is_out_of_reach_from_inside_while_cut(namespace: NetworkNamespace, tmp_path: Path) -> None:
    options = ("--bind", "127.0.0.1", namespace.host_address, "--protected-mode", "no")
    with RedisServer(tmp_path, options=options) as server, redis.Redis.from_url(server.url) as ours:
        theirs = f"redis://{namespace.host_address}:{server.port}/0"
        assert inside(namespace, PING, theirs) == "True"
        namespace.cut()
        assert inside(namespace, PING, theirs) == "TimeoutError"
        assert ours.ping()
        namespace.restore()
        assert inside(namespace, PING, theirs) == "True"


def test_kafka_tells_each_client_the_address_that_it_reaches(namespace: NetworkNamespace, tmp_path: Path) -> None:
    with KafkaCluster(tmp_path, brokers=1, extra_host=namespace.host_address) as cluster:
        ours, theirs = cluster.bootstrap_servers, cluster.extra_bootstrap_servers
        assert inside(namespace, BROKERS, theirs) == theirs
        assert subprocess.check_output([sys.executable, "-c", BROKERS, ours], text=True).strip() == ours


def test_a_full_disk_takes_nothing_until_it_is_freed(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 4) as disk:
        file = disk.directory / "file"
        file.write_bytes(b"before")
        disk.fill()
        with pytest.raises(OSError) as refused:
            (disk.directory / "other").write_bytes(b"x")
        assert refused.value.errno == errno.ENOSPC
        assert file.read_bytes() == b"before"
        disk.free()
        file.write_bytes(bytes(3 * 1024 * 1024))


def test_nothing_is_left_of_a_disk_even_after_a_failure(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", 1)

    def fail() -> None:
        with disk:
            assert disk.directory.is_mount()
            (disk.directory / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not disk.directory.is_mount()
    assert list(disk.directory.iterdir()) == []


def test_a_disk_goes_from_under_a_program_that_uses_it(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", 1)
    with disk:
        file = (disk.directory / "open").open("w")
    with file:
        file.write("nobody reads it")
    assert not disk.directory.is_mount()


def test_what_is_missing_for_a_small_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("sys.platform", "darwin")
        with pytest.raises(NoSmallDisk, match=r"Linux.*darwin"), SmallDisk(tmp_path, 1):
            pass
    with monkeypatch.context() as somebody:
        somebody.setattr("os.geteuid", lambda: 1000)
        somebody.setenv("PATH", str(tmp_path))
        with pytest.raises(NoSmallDisk, match="needs root, or sudo"), SmallDisk(tmp_path, 1):
            pass
    with pytest.raises(NoSmallDisk, match=r"mount .*needs root"), SmallDisk(tmp_path, -1):
        pass
