"""A network that can be cut and slowed: programs in a namespace of their own reach this machine over a veth pair.

Linux with root (or `sudo -n`) and iproute2. Nothing outside the namespace is touched.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, ip_interface
from secrets import randbelow, token_hex
from types import TracebackType
from typing import Self

_ATTEMPTS = 20
_KILLED_WITHIN_S = 10.0
_LOST = ("lladdr", "02:00:00:00:00:01", "nud", "permanent")
"""A link-layer address that neither end has, and that is not asked for again."""


class NoNetworkNamespaces(RuntimeError):
    """This machine can't make them; the message says what is missing."""


@dataclass
class NetworkNamespace:
    """Use as a context manager. Servers for it listen on `host_address`.

    At the end, and after a failure, what still runs inside is killed and all of it is removed.
    """

    name: str = field(default_factory=lambda: f"chaos-{token_hex(3)}")
    host_address: str = ""
    """This machine; reached from here as well, cut or not."""
    address: str = ""
    """The programs inside; reached from outside as well, while the network is not cut."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """Goes before the command that is to run inside."""
        return (*_root(), "ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Packets vanish in both directions: no connection is closed or refused, and new ones time out."""
        # A link that is down would not be silent: whoever connects from inside is told at once that the network is
        # unreachable. So packets go to an address that the other end takes for someone else's.
        self._inside("ip", "neigh", "replace", self.host_address, *_LOST, "dev", "inner")
        _run("ip", "neigh", "replace", self.address, *_LOST, "dev", self._outer)

    def restore(self) -> None:
        """What was sent meanwhile arrives when TCP repeats it: after about as long again as the cut was."""
        self._inside("ip", "neigh", "flush", "dev", "inner", "nud", "permanent")
        _run("ip", "neigh", "flush", "dev", self._outer, "nud", "permanent")

    def slow(self, kbit_per_s: int) -> None:
        """Every packet waits for its turn, in both directions; one that would wait for over 3 s is lost."""
        shape = ("root", "tbf", "rate", f"{kbit_per_s}kbit", "burst", "2kb", "latency", "3s")
        self._inside("tc", "qdisc", "replace", "dev", "inner", *shape)
        _run("tc", "qdisc", "replace", "dev", self._outer, *shape)

    def unslow(self) -> None:
        self._inside("tc", "qdisc", "del", "dev", "inner", "root")
        _run("tc", "qdisc", "del", "dev", self._outer, "root")

    @property
    def _outer(self) -> str:
        return f"v{self.name}"

    def __enter__(self) -> Self:
        _check()
        _run("ip", "netns", "add", self.name)
        try:
            _run("ip", "link", "add", self._outer, "type", "veth", "peer", "name", "inner", "netns", self.name)
            self._take_addresses()
            _run("ip", "link", "set", self._outer, "up")
            self._inside("ip", "addr", "add", f"{self.address}/30", "dev", "inner")
            self._inside("ip", "link", "set", "lo", "up")
            self._inside("ip", "link", "set", "inner", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _take_addresses(self) -> None:
        for _ in range(_ATTEMPTS):
            network = IPv4Network(f"10.{200 + randbelow(50)}.{randbelow(256)}.{4 * randbelow(64)}/30")
            if not any(network.overlaps(taken) for taken in _networks_in_use()):
                self.host_address, self.address = map(str, network.hosts())
                _run("ip", "addr", "add", f"{self.host_address}/30", "dev", self._outer)
                return
        raise NoNetworkNamespaces("every private network that was tried is in use here")

    def _inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self.name, *command)

    def _remove(self) -> None:
        try:
            self._kill_all()
        finally:
            # The namespace would take the pair along, but only some time after it is gone.
            _try("ip", "link", "del", self._outer)
            _run("ip", "netns", "del", self.name)

    def _kill_all(self) -> None:
        deadline = time.monotonic() + _KILLED_WITHIN_S
        while pids := _run("ip", "netns", "pids", self.name).split():
            # One that has ended by itself makes `kill` fail; who is left is in the next list.
            _try("sh", "-c", 'kill -KILL "$@"', "kill", *pids)
            if time.monotonic() > deadline:
                raise NoNetworkNamespaces(f"processes {', '.join(pids)} in {self.name} can't be killed")
            time.sleep(0.02)


def _networks_in_use() -> list[IPv4Network]:
    links = json.loads(_run("ip", "-json", "-4", "addr"))
    addresses = [address for link in links for address in link.get("addr_info", ())]
    interfaces = [ip_interface(f"{address['local']}/{address['prefixlen']}") for address in addresses]
    return [interface.network for interface in interfaces if isinstance(interface, IPv4Interface)]


def _check() -> None:
    if sys.platform != "linux":
        raise NoNetworkNamespaces(f"network namespaces are Linux's; this is {sys.platform}")
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        raise NoNetworkNamespaces(f"{' and '.join(missing)} of iproute2 is not here: sudo apt-get install iproute2")
    if os.geteuid() != 0 and (shutil.which("sudo") is None or _try("true").returncode != 0):
        raise NoNetworkNamespaces("network namespaces need root, or sudo that asks for no password")


def _root() -> tuple[str, ...]:
    return () if os.geteuid() == 0 else ("sudo", "-n")


def _run(*command: str) -> str:
    done = _try(*command)
    if done.returncode != 0:
        raise NoNetworkNamespaces(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _try(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_root(), *command], capture_output=True, text=True, check=False)
