"""One process's part of a replay: to read some partitions, to compare some sessions."""

import time
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager

from aiokafka import AIOKafkaConsumer

from ops.kafka.connection import KafkaConnection
from ops.kafka.reading import span_reader
from ops.replay.comparing import Comparing, Terms
from ops.replay.outcome import Outcome
from ops.replay.reading import Reading, Spans
from ops.replay.selection import Selection
from store.redis.working_copy import WorkingCopy
from store.seals import Seals


class Part:
    """What a process can be asked to do. Several may do it at once, with other partitions and other sessions.

    Every method may raise OpsError and StoreError.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        copy: WorkingCopy,
        selection: Selection,
        may_go_on: Callable[[], bool],
        open_seals: Callable[[], AbstractAsyncContextManager[Seals]],
        *,
        ttl_seconds: float,
        records_per_second: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`may_go_on` and `ttl_seconds` are as `Reading` has them; `open_seals` gives what opens sealed records, while
        some are read."""
        self._connection = connection
        self._topic = topic
        self._copy = copy
        self._selection = selection
        self._may_go_on = may_go_on
        self._open_seals = open_seals
        self._ttl_seconds = ttl_seconds
        self._records_per_second = records_per_second
        self._clock = clock

    async def read(self, spans: Spans) -> None:
        """Takes the records of these spans into the working copy."""
        async with self._open_seals() as seals, span_reader(self._connection, seals=seals) as consumer:
            await self.reading(consumer).run(spans)

    def reading(self, consumer: AIOKafkaConsumer) -> Reading:
        return Reading(
            consumer,
            self._copy,
            self._topic,
            self._selection,
            self._may_go_on,
            ttl_seconds=self._ttl_seconds,
            records_per_second=self._records_per_second,
        )

    async def compare_rebuilt(
        self, terms: Terms, session_ids: list[str], incomplete: Collection[str]
    ) -> tuple[Outcome, list[str]]:
        """Sessions that were rebuilt; what came of it, and those that are ahead of what was read. `incomplete` are
        those of them of which events are not retained."""
        outcome = Outcome()
        return outcome, await self._comparing(outcome, terms).rebuilt(session_ids, incomplete)

    async def compare_live(self, terms: Terms, session_ids: list[str], incomplete: Collection[str]) -> Outcome:
        """Sessions that are live and perhaps were not rebuilt."""
        outcome = Outcome()
        await self._comparing(outcome, terms).live(session_ids, incomplete)
        return outcome

    def _comparing(self, outcome: Outcome, terms: Terms) -> Comparing:
        return Comparing(self._copy, self._selection, outcome, terms, ttl_seconds=self._ttl_seconds, clock=self._clock)

    async def forget(self, session_ids: list[str]) -> None:
        """Removes sessions from the working copy."""
        await self._copy.forget(session_ids)
