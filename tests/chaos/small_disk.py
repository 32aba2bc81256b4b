"""A disk that can be full: a tmpfs of a few MiB. Linux, with root or `sudo -n`."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 * 1024


class NoSmallDisk(RuntimeError):
    """This machine can't mount one; the message says why."""


@dataclass
class SmallDisk:
    """Use as a context manager. At the end it is gone with all that is on it, even from under who still writes."""

    directory: Path
    mebibytes: int

    def fill(self) -> None:
        """Leaves no byte. What is deleted later makes room again."""
        with (self.directory / "filler").open("wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(_CHUNK_BYTES))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return

    def free(self) -> None:
        """Gives back what `fill` took."""
        (self.directory / "filler").unlink()

    def __enter__(self) -> Self:
        _check()
        self.directory.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self.mebibytes}m,mode=0777", "tmpfs", str(self.directory))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run("umount", "--lazy", str(self.directory))


def _check() -> None:
    if sys.platform != "linux":
        raise NoSmallDisk(f"a tmpfs of a chosen size is Linux's; this is {sys.platform}")
    if os.geteuid() != 0 and shutil.which("sudo") is None:
        raise NoSmallDisk("mounting a small disk needs root, or sudo that asks for no password")


def _run(*command: str) -> None:
    root = () if os.geteuid() == 0 else ("sudo", "-n")
    done = subprocess.run([*root, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoSmallDisk(f"{' '.join(command)}: {done.stderr.strip()} (it needs root, or sudo without a password)")
