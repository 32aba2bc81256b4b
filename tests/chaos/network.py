"""A network that can be cut and slowed: programs in a namespace of their own reach this machine over a veth pair.

Linux with root (or `sudo -n`) and iproute2. Nothing outside the namespace is touched.
"""

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import randbelow, token_hex
from types import TracebackType
from typing import Self

_ATTEMPTS = 20


class NoNetworkNamespaces(RuntimeError):
    """This machine can't make them; the message says what is missing."""


@dataclass
class NetworkNamespace:
    """Use as a context manager. Servers for it listen on `host_address`."""

    name: str = field(default_factory=lambda: f"chaos-{token_hex(3)}")
    host_address: str = ""
    address: str = ""
    """The programs inside; reached from outside as well, while the network is not cut."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """Goes before the command that is to run inside."""
        return (*_root(), "ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Packets vanish in both directions; no connection is closed."""
        self._inside("ip", "link", "set", "inner", "down")

    def restore(self) -> None:
        self._inside("ip", "link", "set", "inner", "up")

    def slow(self, kbit_per_s: int) -> None:
        """Every packet waits for its turn, in both directions."""
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
            network = f"10.{200 + randbelow(50)}.{randbelow(256)}"
            base = 4 * randbelow(64)
            self.host_address, self.address = f"{network}.{base + 1}", f"{network}.{base + 2}"
            if network not in _addresses_in_use():
                _run("ip", "addr", "add", f"{self.host_address}/30", "dev", self._outer)
                return
        raise NoNetworkNamespaces("every private network that was tried is in use here")

    def _inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self.name, *command)

    def _remove(self) -> None:
        for pid in _run("ip", "netns", "pids", self.name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _run("ip", "netns", "del", self.name)


def _addresses_in_use() -> str:
    links = json.loads(_run("ip", "-json", "addr"))
    return " ".join(address["local"] for link in links for address in link["addr_info"])


def _check() -> None:
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        raise NoNetworkNamespaces(f"{' and '.join(missing)} of iproute2 is not here: sudo apt-get install iproute2")
    if os.geteuid() != 0 and subprocess.run(["sudo", "-n", "true"], check=False).returncode != 0:
        raise NoNetworkNamespaces("network namespaces need root, or sudo that asks for no password")


def _root() -> tuple[str, ...]:
    return () if os.geteuid() == 0 else ("sudo", "-n")


def _run(*command: str) -> str:
    done = subprocess.run([*_root(), *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoNetworkNamespaces(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
