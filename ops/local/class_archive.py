"""Java's class data sharing for Kafka: the classes that one run loaded, mapped into memory by the next.

It halves the time to start. Java checks the archive against itself and the jars, and runs without it if they
differ.
"""

import secrets
from pathlib import Path

from ops.local.java import Java


class ClassArchive:
    """One archive per folder of jars and version of Java, recorded by the first run that ends cleanly."""

    def __init__(self, jars: Path, java: Java) -> None:
        self._archive = jars.parent / f"classes-{java.version}.jsa"
        # Several first runs may record at once, and an interrupted one leaves half a file.
        self._recording = jars.parent / f".classes-{secrets.token_hex(4)}.jsa"

    def use(self) -> tuple[str, ...]:
        """Flags for a run that only reads the archive; none if there is no archive yet."""
        return (f"-XX:SharedArchiveFile={self._archive}", "-Xlog:cds=off") if self._archive.exists() else ()

    def use_or_record(self) -> tuple[str, ...]:
        """Flags for a run that reads the archive, or else records it at its end, which takes seconds."""
        return self.use() or (f"-XX:ArchiveClassesAtExit={self._recording}", "-Xlog:cds*=off")

    def keep(self) -> None:
        """Publish what the run recorded, if it did; to be called after its clean end."""
        if self._recording.exists():
            self._recording.replace(self._archive)
