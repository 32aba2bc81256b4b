"""The right to work on partitions: a fence, how far they are done, and a store that lacks nothing.

Obtained at each assignment, before any record is taken. Whatever is away is waited for.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from schemas.publishing import PublishError
from store.errors import StoreReplaced, StoreUnavailable
from store.outage import Outage, describe, is_cancelled
from store.protocol import Fence, SessionStore
from workers.errors import LogCut, NotOwner
from workers.incarnations import Incarnations
from workers.records import Assignment, Partition

log = structlog.get_logger(__name__)

_WAIT_SECONDS = 0.1
_WAIT_MAX_SECONDS = 5.0
"""Between attempts to obtain a right."""
_NO_MEMBER = (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
"""How the group coordinator, or the client that knows of a rebalance, refuses a commit of what is not ours."""


class Consumer(Protocol):
    """What is asked of the consumer that feeds a worker."""

    async def commit(self, offsets: dict[Partition, int]) -> None:
        """Raises KafkaError when this process is no longer a member of the group, or no broker answers."""
        ...

    async def committed_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The group's committed offsets, where there are any."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Reads on from `offset`. Of no effect on a partition that is not assigned any more."""
        ...

    async def log_begin(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The oldest offset that is still there."""
        ...

    async def log_end(self, partitions: Iterable[Partition]) -> dict[Partition, int]: ...

    def pause(self, partition: Partition) -> None:
        """Of no effect on a partition that is not assigned any more, as `resume`."""
        ...

    def resume(self, partition: Partition) -> None: ...


class Repair(Protocol):
    """Puts back into the store what it lost (`workers.repair`)."""

    def noticed(self, sign: str) -> None:
        """The store forgot something; `sign` says by what it was seen."""
        ...

    async def run(self, partitions: Iterable[Partition], fence: Fence) -> None:
        """Returns when the store has every session of these partitions as the reply topic has it."""
        ...


LearnPartitions = Callable[[Iterable[Partition]], Awaitable[None]]
"""Counts the inbound topic's partitions anew, given those that were just assigned: only who knows of all of them knows
which sessions are at home where. Raises PublishError."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What was obtained."""

    fence: Fence
    done_below: dict[Partition, int] = field(default_factory=dict)
    """Per partition that may be worked on: records below this offset were done before."""
    read_from: dict[Partition, int] = field(default_factory=dict)
    """Per partition that may be worked on: the offset to read from, the committed one or the oldest that is there."""
    refused: dict[Partition, str] = field(default_factory=dict)
    """Partitions that can't be worked on, and why."""
    logs: dict[str, str] = field(default_factory=dict)
    """Per topic the life of it that is worked on (`workers.incarnations`)."""
    lost: dict[Partition, tuple[int, int]] = field(default_factory=dict)
    """Partitions of which retention removed records before they were read: from which offset, and before which."""


class Rights:
    """Obtains rights, and asks the group whether one still stands."""

    def __init__(
        self,
        store: SessionStore,
        consumer: Consumer,
        repair: Repair,
        incarnations: Incarnations,
        learn_partitions: LearnPartitions,
        *,
        publish_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`publish_seconds`: how long a reply may be on its way to Kafka. `clock`: seconds that all workers share."""
        self._publish_seconds = publish_seconds
        self._clock = clock
        self._server = ""
        self._outage = Outage()
        self.obstacle: str | None = None
        """Why partitions can't be worked on at the moment; None when nothing is in the way."""
        self._learn_partitions = learn_partitions
        self._store = store
        self._consumer = consumer
        self._repair = repair
        self._incarnations = incarnations

    async def obtain(self, owned_since: Mapping[Partition, float], *, accept_server: bool) -> Granted:
        """The right to partitions, which the group gave us at those times (of the monotonic clock), as soon as store
        and broker answer. `accept_server`: whichever server is the store now; no turn may be under way then.

        Raises:
            NotOwner: a later owner has written, and the group says that the partitions are not ours.
        """
        attempts = 0
        while True:
            try:
                granted = await self._obtain(owned_since, accept_server)
            except NotOwner:
                # A later owner, or only a later fence of our own? The group coordinator knows.
                if not await self._is_member(await self._committed_or_begin(list(owned_since))):
                    raise
            except asyncio.CancelledError as error:
                if is_cancelled():
                    raise
                self._obstacle(error)
            except Exception as error:
                self._obstacle(error)
            else:
                if (lasted := self._outage.ended()) is not None:
                    log.warning("assignment_goes_on", after_seconds=round(lasted, 1))
                self.obstacle = None
                return granted
            attempts += 1
            await asyncio.sleep(min(_WAIT_MAX_SECONDS, _WAIT_SECONDS * 2**attempts) * random.uniform(0.5, 1.0))  # noqa: S311

    def _obstacle(self, error: BaseException) -> None:
        """Something is away, or wrong here: nothing can be worked on before it is well again."""
        self.obstacle = describe(error)
        if self._outage.failed():
            known = isinstance(error, (StoreUnavailable, StoreReplaced, KafkaError, PublishError))
            log.warning(
                "assignment_waits",
                error=self.obstacle,
                seconds=round(self._outage.seconds, 1),
                exc_info=None if known else error,
            )

    async def reclaim(self, assignment: Assignment, unfinished_from: int) -> bool:
        """Whether the partition is still ours. The group coordinator knows: it takes commits from members only.

        Raises:
            StoreReplaced: what the store lacks must be put back first.
        """
        while True:
            try:
                await self._store.save_progress({assignment.progress_key: unfinished_from})
                break
            except StoreReplaced:
                raise
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                self._obstacle(error)
                await asyncio.sleep(_WAIT_SECONDS)
        return await self._is_member({assignment.partition: unfinished_from})

    async def _is_member(self, offsets: dict[Partition, int]) -> bool:
        """Whether the group takes a commit of these offsets from us. Waits while no broker answers."""
        while True:
            try:
                await self._consumer.commit(offsets)
            except _NO_MEMBER as refusal:
                log.warning("ownership_lost", partitions=[str(each) for each in offsets], error=type(refusal).__name__)
                return False
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                self._obstacle(error)
                await asyncio.sleep(_WAIT_SECONDS)
                continue
            return True

    async def _committed_or_begin(self, partitions: list[Partition]) -> dict[Partition, int]:
        while True:
            try:
                committed = await self._consumer.committed_offsets(partitions)
                return await self._consumer.log_begin(partitions) | committed
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled():
                    raise
                self._obstacle(error)
                await asyncio.sleep(_WAIT_SECONDS)

    async def _obtain(self, owned_since: Mapping[Partition, float], accept_server: bool) -> Granted:
        partitions = list(owned_since)
        await self._learn_partitions(partitions)
        if accept_server:
            # What it lacks is put back below.
            self._server = await self._store.accept_server()
        fence = Fence("partition", await self._store.next_fence())
        committed = await self._consumer.committed_offsets(partitions)
        await self._former_owners_are_silent(owned_since, committed)
        try:
            done = await self._repaired(partitions, committed, fence)
        except LogCut as cut:
            return Granted(fence, refused=dict.fromkeys(partitions, str(cut)))
        if self._server:
            await self._store.save_progress({self._repaired_mark(partition): 1 for partition in partitions})
        begins, ends = await self._consumer.log_begin(partitions), await self._consumer.log_end(partitions)
        granted = Granted(fence, logs={partition.topic: self._log(partition.topic) for partition in partitions})
        for partition in partitions:
            below = done[partition]
            if ends[partition] < below:
                granted.refused[partition] = str(LogCut.ends_below(*partition, ends[partition], below))
                continue
            granted.done_below[partition] = below
            granted.read_from[partition] = max(committed.get(partition, 0), begins[partition])
            if begins[partition] > (read := max(below, committed.get(partition, 0))) > 0:
                granted.lost[partition] = (read, begins[partition])
        return granted

    async def _former_owners_are_silent(
        self, owned_since: Mapping[Partition, float], committed: Mapping[Partition, int]
    ) -> None:
        """Waits where a store that was replaced meets a partition that just moved: the former owner's last turn may be
        lost in the store, and its reply still on the way to the topic. Who reads the topic too early answers again.

        Nobody works on the new server before this, so what is on the way is as old as that server is to us.
        """
        if not self._server:
            return
        marks = {self._repaired_mark(partition): partition for partition in owned_since if committed.get(partition, 0)}
        first_seen = f"first seen|{self._server}"
        known = await self._store.progress([first_seen, *marks])
        now = int(self._clock())
        if first_seen not in known:
            await self._store.save_progress({first_seen: now})
        moved_at = [owned_since[partition] for mark, partition in marks.items() if mark not in known]
        wait = self._publish_seconds + min(
            max(moved_at, default=float("-inf")) - time.monotonic(), known.get(first_seen, now) - now
        )
        if wait > 0:
            log.warning("store_replaced_as_partitions_moved", waits_seconds=round(wait, 1))
            await asyncio.sleep(wait)

    def _repaired_mark(self, partition: Partition) -> str:
        """What the store's progress says once it lacks nothing of the partition, as the server that it is now."""
        return f"{partition.topic}:{partition.partition}|{self._server}"

    async def _repaired(
        self, partitions: list[Partition], committed: dict[Partition, int], fence: Fence
    ) -> dict[Partition, int]:
        """Below which offsets the partitions' records are done, once the store lacks nothing of them."""
        topics = {partition.topic for partition in partitions}
        await self._incarnations.learn(topics)
        known = self._incarnations.numbers
        done = await self._store.progress([self._key(partition) for partition in partitions])
        behind = {p: offset for p, offset in committed.items() if done.get(self._key(p), 0) < offset}
        if behind:
            self._repair.noticed("progress_behind")
        await self._repair.run(partitions, fence)
        if self._incarnations.numbers != known:
            # The store had forgotten that a topic was created again, and the reply topic has not.
            await self._incarnations.save()
            return await self._repaired(partitions, committed, fence)
        if behind:
            await self._store.save_progress({self._key(partition): offset for partition, offset in behind.items()})
        return {p: max(done.get(self._key(p), 0), behind.get(p, 0)) for p in partitions}

    def _log(self, topic: str) -> str:
        return self._incarnations.name(topic)

    def _key(self, partition: Partition) -> str:
        return f"{self._log(partition.topic)}:{partition.partition}"
