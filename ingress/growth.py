"""Follows the topics when partitions are added, so that nothing must be restarted."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import orjson
import structlog

from ingress.homes import Homes
from ingress.refusals import RecordRefused
from ingress.topic_reader import TopicReader
from schemas.incarnation import parse_incarnation
from schemas.sealed import is_sealed
from store.outage import Outage

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
"""How often is looked, while sessions move, how far workers are."""


class Growth:
    """Looks every `interval` seconds how many partitions there are.

    Workers look as often: an inbound partition is written to only after they had twice that time to divide it among
    them, so that nobody's message waits there for its first reader.
    """

    def __init__(
        self,
        *,
        inbound_topic: str,
        homes: Homes,
        readers: Sequence[TopicReader],
        count: Callable[[str], Awaitable[int]],
        log_ends: Callable[[int], Awaitable[Mapping[int, int]]],
        done_below: Callable[[int], Awaitable[Mapping[int, int]]],
        interval: float,
    ) -> None:
        """`count` tells how many partitions a topic has; the others, where the logs of so many inbound partitions end
        and how far workers are in them."""
        self._inbound_topic = inbound_topic
        self._homes = homes
        self._readers = readers
        self._count = count
        self._log_ends = log_ends
        self._done_below = done_below
        self._interval = interval

    def waits_for(self, key: bytes | None) -> bool:
        """Whether a reply of this session must be known, because it may move."""
        if self._homes.settled or key is None:
            return False
        return self._homes.waits_for_answer(key.decode(errors="replace"))

    def replied(self, key: bytes | None, value: bytes | None) -> None:
        """A record of the reply topic: a session that talks without a pause moves between an answer and the next
        message. Raises RecordRefused: it is no reply event."""
        if key is None or not self.waits_for(key) or value is None or is_sealed(value):
            return
        session_id = key.decode(errors="replace")
        try:
            source = orjson.loads(value)["source"]
            if source is not None and parse_incarnation(source["topic"])[0] == self._inbound_topic:
                self._homes.answered(session_id, source["partition"], source["offset"])
        except Exception as error:
            # Nothing validated these bytes: whatever type of error they lead to is theirs.
            raise RecordRefused("unreadable", "it is no reply event") from error

    async def run(self) -> None:
        """Until cancelled. After an error of any type it looks again `interval` later."""
        outage = Outage()
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._look()
            except Exception as error:
                if outage.failed():
                    log.warning("partitions_not_counted", error=str(error) or type(error).__name__, exc_info=error)
            else:
                if outage.ended() is not None:
                    log.warning("partitions_counted_again")

    async def _look(self) -> None:
        for reader in self._readers:
            await reader.extend(await self._count(reader.topic))
        count = await self._count(self._inbound_topic)
        if self._homes.settled and count > self._homes.count:
            await asyncio.sleep(2 * self._interval)
            log.info("sessions_move", topic=self._inbound_topic, before=self._homes.count, now=count)
            self._homes.grow(count)
        while not self._homes.settled:
            await self._move_on()
            await asyncio.sleep(POLL_SECONDS)

    async def _move_on(self) -> None:
        if (old := self._homes.needs_barrier) is not None:
            self._homes.barrier(await self._log_ends(old))
        self._homes.progressed(await self._done_below(self._homes.count))
        if self._homes.settled:
            log.info("sessions_moved", topic=self._inbound_topic)
