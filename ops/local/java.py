"""Which Java runs Apache Kafka."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.local.process import ServerError

_OLDEST = 17
_VERSION = re.compile(r'version "((\d+)[^"]*)"')
# Homebrew keeps its Java off the PATH.
_HOMEBREW = (Path("/opt/homebrew/opt/openjdk/bin/java"), Path("/usr/local/opt/openjdk/bin/java"))


@dataclass(frozen=True)
class Java:
    program: Path
    version: str


def find_java() -> Java:
    """The first Java of at least version 17: from JAVA_HOME, the PATH, Homebrew.

    Raises:
        ServerError: there is none; the message lists what was found.
    """
    too_old = []
    for program in filter(Path.is_file, _candidates()):
        answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
        if found := _VERSION.search(answer):
            if int(found[2]) >= _OLDEST:
                return Java(program, found[1])
            too_old.append(f"{program} is {found[1]}")
    found_text = "; ".join(too_old) or "none found"
    raise ServerError(f"Apache Kafka needs Java {_OLDEST} or newer ({found_text}). Run `make services`.")


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    if on_path := shutil.which("java"):
        yield Path(on_path)
    yield from _HOMEBREW
