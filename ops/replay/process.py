"""A process of its own that reads a share of the reply partitions for a replay."""

import asyncio
import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import uvloop

from ops import wiring
from ops.kafka.reading import span_reader
from ops.replay.reading import Reading, Spans
from ops.replay.selection import Selection
from ops.settings import Settings


@dataclass(frozen=True, slots=True)
class ReadElsewhere:
    """What such a process needs to know; it is sent there."""

    settings: Settings
    selection: Selection
    whole: bool
    parent: int = field(default_factory=os.getpid)
    """Who wants it read. Told, not asked for: by the time that this process could ask, it may be gone."""

    def __call__(self, spans: Spans, token: str) -> None:
        """Reads `spans` for the holder of the lease, to the end. Ends when that process is gone."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._read(dict(spans)))

    async def _read(self, spans: Mapping[int, tuple[int, int]]) -> None:
        # What is read is much and has no cycles: looking for some all the time takes as long as decoding it. What the
        # libraries leave behind is collected by generations of a size that decoding never reaches.
        gc.freeze()
        gc.set_threshold(1_000_000, 10, 10)
        connection = wiring.kafka_connection(self.settings)
        copy = wiring.working_copy(self.settings, self.selection, whole=self.whole)
        try:
            async with (
                wiring.session_keys(self.settings, connection) as seals,
                span_reader(connection, seals=seals) as consumer,
            ):
                reading = Reading(
                    consumer,
                    copy,
                    wiring.topic_names(self.settings).replies,
                    self.selection,
                    lambda: os.getppid() == self.parent,
                    ttl_seconds=self.settings.redis_session_ttl_seconds,
                )
                await reading.run(spans)
        finally:
            await copy.close()
