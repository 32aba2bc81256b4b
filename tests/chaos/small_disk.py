"""A disk that can be full: a tmpfs of a few MiB. Linux, with root or `sudo -n`."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024


class NoSmallDisk(RuntimeError):
    """This machine can't mount one; the message says why."""


@dataclass
class SmallDisk:
    """Use as a context manager."""

    directory: Path
    mebibytes: int

    def fill(self) -> None:
        """Leaves no byte."""
        with (self.directory / "filler").open("wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(_CHUNK))
                except OSError:
                    return

    def free(self) -> None:
        """Gives back what `fill` took."""
        (self.directory / "filler").unlink()

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self.mebibytes}m,mode=0777", "tmpfs", str(self.directory))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run("umount", "--lazy", str(self.directory))


def _run(*command: str) -> None:
    root = () if os.geteuid() == 0 else ("sudo", "-n")
    done = subprocess.run([*root, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoSmallDisk(f"{' '.join(command)}: {done.stderr.strip()} (it needs root, or sudo without a password)")
