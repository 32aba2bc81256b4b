"""The shell around lanes and commits: takes batches in, runs lane heads as tasks, commits what is contiguous."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass

import structlog

from schemas.inbound import Cancel
from store.errors import StoreReplaced
from store.l1 import L1Cache
from store.outage import Outage, describe, is_cancelled
from store.protocol import SessionStore
from workers.cancellations import Cancellations
from workers.commits import CommitTracker
from workers.errors import NotOwner, StoreForgot
from workers.incarnations import Incarnations
from workers.lanes import Lanes, Work
from workers.marks import ReplyMarks
from workers.observer import Observer
from workers.places import IDLE_SECONDS, Place
from workers.records import Assignment, KafkaRecord, Partition, Taken, offset_after, take
from workers.rights import Consumer, LearnPartitions, Repair, Rights

log = structlog.get_logger(__name__)

LaneWork = Work[Partition, Taken]

STARTED_AT_ONCE = 64
"""Lane heads started in one turn of the event loop."""
ENDED_IN_A_ROW = 16
"""Works of one lane that one task runs; turns that wait for nothing must not keep the event loop."""
CRASH_PAUSE_SECONDS = 1.0
"""Before a turn that ended in an unexpected exception is run again."""


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """Bounds of what a worker holds, and how long it waits. Times in seconds."""

    concurrency: int = 256
    """Lanes that run at once."""
    max_open_per_partition: int = 1_000
    """Records taken beyond the committed prefix; the partition pauses there."""
    commit_interval: float = 1.0
    drain_timeout: float = 20.0
    """How long running turns may go on when their partition is revoked."""
    queue_drain_timeout: float = 3.0
    """How long, within that, turns may still be begun of records that wait in their lanes. A session with a long queue
    must not hold up everybody's rebalance."""
    publish_seconds: float = 10.0
    """How long a reply may be on its way to Kafka."""


class Dispatcher:
    """Owns the partitions of this process from assignment to revocation.

    `accept` is called from the consumer's poll loop and never waits. Tasks are one per running lane head.
    """

    def __init__(
        self,
        *,
        run_turn: Callable[[Taken, Place], Awaitable[None]],
        store: SessionStore,
        l1: L1Cache,
        cancellations: Cancellations,
        consumer: Consumer,
        repair: Repair,
        marks: ReplyMarks,
        incarnations: Incarnations,
        learn_partitions: LearnPartitions,
        settle_publishing: Callable[[], Awaitable[None]],
        observer: Observer,
        settings: DispatchSettings,
    ) -> None:
        self._run_turn = run_turn
        self._store = store
        self._l1 = l1
        self._cancellations = cancellations
        self._consumer = consumer
        self._repair = repair
        self._marks = marks
        self._settle_publishing = settle_publishing
        self._observer = observer
        self._incarnations = incarnations
        self._rights = Rights(
            store, consumer, repair, incarnations, learn_partitions, publish_seconds=settings.publish_seconds
        )
        self._owned_since: dict[Partition, float] = {}
        """When the group gave us each partition that we own."""
        self._preparations = 0
        self._prepared_by: dict[Partition, int] = {}
        """The newest preparation of each partition: what an earlier one obtains doesn't count any more."""
        self._settings = settings
        self._lanes: Lanes[Partition, Taken] = Lanes(concurrency=settings.concurrency)
        self._commits: CommitTracker[Partition] = CommitTracker()
        self._assignments: dict[Partition, Assignment] = {}
        self._revoking: set[Partition] = set()
        """Partitions that are drained; what still comes in from them is left to their next owner."""
        self._paused: set[Partition] = set()
        self._checking: set[asyncio.Task[None]] = set()
        self._tasks: dict[LaneWork, asyncio.Task[None]] = {}
        self._places: dict[LaneWork, Place] = {}
        """Of what runs."""
        self._regaining: dict[LaneWork, asyncio.Future[None]] = {}
        """Parked works that wait for a place."""
        self._parking: asyncio.TimerHandle | None = None
        self._preparing: set[asyncio.Task[None]] = set()
        self._committing = asyncio.Lock()
        self._commit_outage = Outage()
        self.commit_error: str | None = None
        """Why the last commit failed; None when it did not."""
        self._generation = 0
        self._progressed_at = 0.0
        """When something was committed last, or work began after there was none."""
        self._starting = False
        self._stopped = False
        self.refused: dict[Partition, str] = {}
        """Partitions that can't be worked on, and why; shown by the readiness check."""

    @property
    def assignments(self) -> dict[Partition, Assignment]:
        return dict(self._assignments)

    @property
    def open_records(self) -> int:
        """Records taken and not yet below a committable prefix."""
        return sum(self._commits.open_count(partition) for partition in self._assignments)

    def stalled_seconds(self, now: float) -> float:
        """How long nothing was committed although records are open; 0 while there are none. `now` by a monotonic
        clock."""
        return now - self._progressed_at if self.open_records else 0.0

    @property
    def owned(self) -> list[Partition]:
        """The partitions that the group gave us, worked on or not."""
        return list(self._owned_since)

    def done_below(self, partition: Partition) -> int | None:
        """All records of `partition` below this offset are done; None while it is not worked on."""
        return self._commits.done_below(partition) if partition in self._assignments else None

    def is_busy(self, partition: Partition) -> bool:
        """Whether records of it are taken and not done."""
        return self._commits.open_count(partition) > 0

    def preparing_problem(self, limit_seconds: float) -> str | None:
        """Which partitions have not been ready for so long, and why; None when there are none."""
        now = time.monotonic()
        late = [
            partition
            for partition, since in self._owned_since.items()
            if partition not in self._assignments and partition not in self.refused and now - since > limit_seconds
        ]
        if not late:
            return None
        why = self._rights.obstacle or "the store is being repaired, or turns of before are ending"
        return f"{', '.join(map(str, sorted(late)))}: not ready to be worked on: {why}"

    def commit_problem(self, limit_seconds: float) -> str | None:
        """Why nothing could be committed for so long; None when commits go on."""
        if self._commit_outage.seconds <= limit_seconds:
            return None
        return f"offsets could not be committed for {self._commit_outage.seconds:.0f} s: {self.commit_error}"

    def accept(self, records: Iterable[KafkaRecord]) -> None:
        """Takes records, in their partition's order, into the lanes. Doesn't wait and doesn't raise."""
        if self._stopped:
            return
        now = time.monotonic()
        if not self.open_records:
            self._progressed_at = now
        for record in records:
            partition = Partition(record.topic, record.partition)
            assignment = self._assignments.get(partition)
            if assignment is None or partition in self._revoking:
                # When the partition is ready it is read again from its committed offset.
                continue
            expected = self._commits.next_offset(partition)
            if expected is not None and record.offset > expected:
                self._check_soon(partition, expected, record.offset)
            self._commits.taken(partition, record.offset, offset_after(record))
            if record.offset < assignment.done_below:
                self._commits.done(partition, record.offset)
                continue
            taken = take(record, assignment, now)
            if isinstance(taken.event, Cancel):
                self._cancellations.request(taken.event.session_id, taken.event.target)
            self._lanes.offer(Work(taken.lane, partition, assignment.generation, taken))
        self._start_ready()
        self._pause_full()

    def refuse(self, partitions: Iterable[Partition], error: Exception) -> None:
        """Gives up on `partitions` until they are assigned again: something here is broken, not their records."""
        for partition in partitions:
            self._forsake(partition)
            self.refused[partition] = f"{partition} can't be worked on: {error}"

    async def assigned(self, partitions: Iterable[Partition]) -> None:
        """Begins to own `partitions`. Returns at once; records are taken as soon as the store has given a fence."""
        partitions = list(partitions)
        if self._stopped:
            return
        for partition in partitions:
            self._owned_since[partition] = time.monotonic()
            self._consumer.pause(partition)
        self._prepare_soon(self._prepare(partitions, self._next_preparation(partitions)))

    async def revoked(self, partitions: Iterable[Partition]) -> None:
        """Ends owning `partitions`: what was taken gets some time to finish (`DispatchSettings`), what is done is
        committed, the rest is left to the next owner. Nothing of them is left here afterwards, whatever fails."""
        partitions = set(partitions)
        self._revoking |= partitions
        try:
            await self._stop_preparing()
            await self._drain(partitions)
            # A turn that found the store replaced meanwhile began another one.
            await self._stop_preparing()
            await self._abandon(partitions)
            await self.commit()
        finally:
            for partition in partitions:
                self._forget(partition)

    async def _abandon(self, partitions: set[Partition]) -> None:
        """Cancels turns that run although their time is over."""
        if late := [task for work, task in self._tasks.items() if work.partition in partitions]:
            log.warning("turns_abandoned", count=len(late), drained_seconds=self._settings.drain_timeout)
            for task in late:
                task.cancel()
            await asyncio.wait(late)

    def _forget(self, partition: Partition) -> None:
        self._drop_waiting(partition)
        self._owned_since.pop(partition, None)
        self._prepared_by.pop(partition, None)
        self._commits.revoke(partition)
        self._assignments.pop(partition, None)
        self._l1.drop_partition(partition)
        self._paused.discard(partition)
        self._revoking.discard(partition)
        self.refused.pop(partition, None)

    async def _stop_preparing(self) -> None:
        if preparing := list(self._preparing):
            for task in preparing:
                task.cancel()
            await asyncio.wait(preparing)

    async def _drain(self, partitions: set[Partition]) -> None:
        """Waits, within limits, for all that was taken of `partitions`. Also for what waits in lanes: a record that is
        dropped holds back the commit of those behind it that are done, and they would be published again."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        begun = loop.time()
        for limit in (min(settings.queue_drain_timeout, settings.drain_timeout), settings.drain_timeout):
            while self._lanes.holds(partitions) and (left := begun + limit - loop.time()) > 0:
                if self._tasks:
                    await asyncio.wait(self._tasks.values(), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(0)
            for partition in partitions:
                self._drop_waiting(partition)

    async def commit(self) -> None:
        """Commits the contiguous prefix of done offsets: first in the store, then in the group, so that the group is
        never ahead of what the store knows.

        What fails is tried again with the next call; what is not committed is redelivered and found done.
        """
        async with self._committing:
            offsets = self._commits.committable()
            if not offsets:
                return
            progress = {self._assignments[partition].progress_key: offset for partition, offset in offsets.items()}
            try:
                await self._store.save_progress(progress | self._marks.take(self._assignments, self._incarnations.name))
                await self._consumer.commit(offsets)
            except StoreReplaced:
                self._distrust_store("server_replaced")
                return
            except asyncio.CancelledError as error:
                if is_cancelled():
                    raise
                self._commit_failed(error)
                return
            except Exception as error:
                self._commit_failed(error)
                return
            if (lasted := self._commit_outage.ended()) is not None:
                log.warning("committing_again", after_seconds=round(lasted, 1))
            self.commit_error = None
            self._commits.committed(offsets)
            self._progressed_at = time.monotonic()

    def _commit_failed(self, error: BaseException) -> None:
        self.commit_error = describe(error)
        self._observer.commit_failed()
        if self._commit_outage.failed():
            log.warning("commit_failed", error=self.commit_error, seconds=round(self._commit_outage.seconds, 1))

    async def commit_regularly(self) -> None:
        """Commits every `commit_interval` until cancelled."""
        while True:
            await asyncio.sleep(self._settings.commit_interval)
            await self.commit()

    async def stop(self) -> None:
        """Drains and commits everything; nothing is accepted afterwards."""
        self._stopped = True
        for task in self._checking:
            task.cancel()
        await self.revoked(list(self._owned_since))
        if self._parking is not None:
            self._parking.cancel()

    def _check_soon(self, partition: Partition, expected: int, found: int) -> None:
        """Records between two that were read are not in the log. Transaction markers are none's loss; what retention
        removed before it was read is."""
        task = asyncio.create_task(self._check_gap(partition, expected, found), name="check-gap")
        self._checking.add(task)
        task.add_done_callback(self._checking.discard)

    async def _check_gap(self, partition: Partition, expected: int, found: int) -> None:
        try:
            begin = (await self._consumer.log_begin([partition]))[partition]
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            # The gap itself was proven before; only whether it counts as lost is not known.
            log.warning("gap_not_checked", partition=str(partition), offset=expected, error=str(error))
            return
        if begin > expected:
            self._lost(partition, expected, min(begin, found))

    def _lost(self, partition: Partition, begin: int, end: int) -> None:
        log.error(
            "records_lost_to_retention",
            partition=str(partition),
            first_offset=begin,
            count=end - begin,
            hint="They were removed before a worker read them: raise retention.ms, or add workers.",
        )
        self._observer.records_lost(end - begin)

    def _prepare_soon(self, preparation: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(preparation, name="prepare-assignment")
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    def _next_preparation(self, partitions: Iterable[Partition]) -> int:
        self._preparations += 1
        self._prepared_by.update(dict.fromkeys(partitions, self._preparations))
        return self._preparations

    async def _prepare(self, partitions: list[Partition], number: int, *, accept_server: bool = True) -> None:
        """`number` from `_next_preparation`. A store that was replaced in mid-revocation begins one that the next
        assignment overtakes: both at once would take records twice, and lose count of what is open."""
        partitions = [partition for partition in partitions if self._prepared_by.get(partition) == number]
        if not partitions:
            return
        owned_since = {partition: self._owned_since[partition] for partition in partitions}
        try:
            granted = await self._rights.obtain(owned_since, accept_server=accept_server)
        except NotOwner:
            self._leave([each for each in partitions if self._prepared_by.get(each) == number])
            return
        except Exception as error:
            log.exception("assignment_failed")
            self.refuse([each for each in partitions if self._prepared_by.get(each) == number], error)
            return
        # From here on nothing waits, so no record slips in between.
        for partition, reason in granted.refused.items():
            if self._prepared_by.get(partition) != number:
                continue
            self.refused[partition] = reason
            log.error("partition_refused", partition=str(partition), reason=reason)
        for partition, (begin, end) in granted.lost.items():
            self._lost(partition, begin, end)
        for partition, done_below in granted.done_below.items():
            if self._prepared_by.get(partition) != number:
                continue
            self._generation += 1
            start = granted.read_from[partition]
            self._commits.assign(partition, start)
            self._assignments[partition] = Assignment(
                partition, self._generation, granted.fence, done_below, granted.logs[partition.topic]
            )
            self.refused.pop(partition, None)
            self._consumer.seek(partition, start)
            self._consumer.resume(partition)
        log.info("partitions_ready", count=len(granted.done_below), fence=granted.fence.token)

    def _start_ready(self) -> None:
        """Starts lane heads, some at a time: what the first ones ask of Redis and Kafka is on its way while the next
        ones compute."""
        self._starting = False
        loop = asyncio.get_running_loop()
        for _ in range(STARTED_AT_ONCE):
            work = self._lanes.take()
            if work is None:
                return
            if (regained := self._regaining.pop(work, None)) is not None:
                self._places[work].parked = False
                if not regained.done():
                    regained.set_result(None)
                continue
            self._tasks[work] = loop.create_task(self._run(work))
            self._park_soon()
        self._start_soon()

    def _start_soon(self) -> None:
        if not self._starting:
            self._starting = True
            asyncio.get_running_loop().call_soon(self._start_ready)

    def _park_soon(self) -> None:
        if self._parking is None:
            self._parking = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._park_idle)

    def _park_idle(self) -> None:
        """Gives the places of turns that have only waited for a while to others."""
        self._parking = None
        idle_since = time.monotonic() - IDLE_SECONDS
        for work in self._lanes.holding_places:
            place = self._places.get(work)
            if place is not None and place.idle_since is not None and place.idle_since < idle_since:
                place.parked = True
                self._lanes.park(work)
        if self._tasks:
            self._park_soon()
            self._start_soon()

    async def _regain(self, work: LaneWork) -> None:
        """Returns when parked work has a place again."""
        self._regaining[work] = asyncio.get_running_loop().create_future()
        self._lanes.wants_place(work)
        self._start_soon()
        try:
            await self._regaining[work]
        finally:
            # Cancelled: a turn that ends must not be handed a place, and be taken for one that begins.
            self._lanes.needs_no_place(work)
            self._regaining.pop(work, None)

    async def _run(self, work: LaneWork) -> None:
        """Runs a lane's head, then those behind it while no other lane waits for the place: a task for each would
        start only after all others in this turn of the event loop."""
        following: LaneWork | None = work
        ended = 0
        while following is not None:
            work, done = following, False
            try:
                await self._run_to_its_end(work)
                done = True
            except NotOwner as error:
                self._check_ownership(work, error)
            except (StoreReplaced, StoreForgot) as error:
                log.warning("store_distrusted", error=str(error))
                if self._is_current(work):
                    self._distrust_store("server_replaced" if isinstance(error, StoreReplaced) else "session_behind")
            finally:
                ended += 1
                following = self._end(work, done, go_on=ended < ENDED_IN_A_ROW)

    async def _run_to_its_end(self, work: LaneWork) -> None:
        """Runs a turn until it ends as it should. What nobody foresaw, a cancellation that was not asked for among it,
        must not make the record vanish from its lane, for then its partition would never commit again."""
        while True:
            place = self._places[work] = Place(lambda place, work=work: self._regain(work))  # type: ignore[misc]
            place.parked = self._lanes.is_parked(work)
            try:
                await self._run_turn(work.item, place)
                return
            except (NotOwner, StoreReplaced, StoreForgot):
                raise
            except asyncio.CancelledError as error:
                if is_cancelled():
                    raise
                crash: BaseException = error
            except Exception as error:
                crash = error
            finally:
                self._places.pop(work, None)
            log.error("turn_crashed", lane=work.lane, source=str(work.item.source), exc_info=crash)
            self._observer.retried(type(crash).__name__)
            await asyncio.sleep(CRASH_PAUSE_SECONDS)

    def _end(self, work: LaneWork, done: bool, *, go_on: bool) -> LaneWork | None:
        """Ends running work. Returns what its task shall run next; only after work that is done."""
        task = self._tasks.pop(work)
        following = None
        if done and go_on:
            following = self._lanes.finish_and_go_on(work)
        else:
            self._lanes.finish(work)
        if following is not None:
            self._tasks[following] = task
        self._forget_cancel(work)
        if done and self._is_current(work):
            self._commits.done(work.partition, work.item.record.offset)
            self._resume_drained(work.partition)
        if following is None:
            self._start_soon()
        return following

    def _is_current(self, work: LaneWork) -> bool:
        """Whether `work` belongs to the present assignment of its partition."""
        assignment = self._assignments.get(work.partition)
        return assignment is not None and assignment.generation == work.generation

    def _check_ownership(self, work: LaneWork, error: NotOwner) -> None:
        """The store fenced our write: confirm ownership with the group coordinator."""
        if not self._is_current(work):
            return
        log.warning("write_fenced", partition=str(work.partition), session_id=error.session_id)
        unfinished_from = self._commits.unfinished_from(work.partition)
        assignment = self._assignments[work.partition]
        self._forsake(work.partition)
        self._prepare_soon(self._reclaim(assignment, unfinished_from, self._next_preparation([work.partition])))

    async def _reclaim(self, assignment: Assignment, unfinished_from: int, number: int) -> None:
        partition = assignment.partition
        try:
            is_ours = await self._rights.reclaim(assignment, unfinished_from)
        except StoreReplaced:
            # All partitions must see that, so that what the server lacks is put back.
            if self._prepared_by.get(partition) == number:
                self._distrust_store("server_replaced", also={partition})
            return
        if is_ours:
            # That the store was replaced must be seen by all partitions, not be hidden by one of them.
            await self._prepare([partition], number, accept_server=False)
        elif self._prepared_by.get(partition) == number:
            self._leave([partition])

    def _leave(self, partitions: Iterable[Partition]) -> None:
        """The group says that these are not ours. Its next rebalance gives them to their owner, or to us again."""
        for partition in partitions:
            self._forsake(partition)
            self.refused[partition] = (
                f"{partition} is another worker's: the group refused our commit; a rebalance follows"
            )

    def _distrust_store(self, sign: str, also: Iterable[Partition] = ()) -> None:
        """The store may have lost writes: nothing more is done in any partition before it is repaired."""
        partitions = [*self._assignments, *(set(also) - self._assignments.keys())]
        if not partitions:
            return
        self._repair.noticed(sign)
        for partition in partitions:
            self._forsake(partition)
        self._prepare_soon(self._start_over(partitions, self._next_preparation(partitions)))

    async def _start_over(self, partitions: list[Partition], number: int) -> None:
        """Repairs the store and takes everything again, after all that is under way has come to an end.

        A turn that goes on would find an older session in the store, and write after it; and a reply that is published
        while the reply topic is read would be in the topic and not in the store.
        """
        if running := list(self._tasks.values()):
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        try:
            await self._settle_publishing()
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            log.warning("publishing_not_settled", error=describe(error))
        await self._prepare(partitions, number)

    def _forsake(self, partition: Partition) -> None:
        """Lets go of the partition, and reads no further, until it is prepared anew."""
        self._drop_waiting(partition)
        self._commits.revoke(partition)
        self._assignments.pop(partition, None)
        self._l1.drop_partition(partition)
        self._paused.discard(partition)
        self._consumer.pause(partition)

    def _drop_waiting(self, partition: Partition) -> None:
        for work in self._lanes.revoke(partition):
            self._forget_cancel(work)

    def _forget_cancel(self, work: LaneWork) -> None:
        """A cancel that is past, or is left to the next owner, must not linger."""
        event = work.item.event
        if isinstance(event, Cancel):
            self._cancellations.forget(event.session_id, event.target)

    def _pause_full(self) -> None:
        for partition in self._assignments:
            if (
                partition not in self._paused
                and self._commits.open_count(partition) >= self._settings.max_open_per_partition
            ):
                self._paused.add(partition)
                self._consumer.pause(partition)

    def _resume_drained(self, partition: Partition) -> None:
        if (
            partition in self._paused
            and self._commits.open_count(partition) <= self._settings.max_open_per_partition // 2
        ):
            self._paused.discard(partition)
            self._consumer.resume(partition)
