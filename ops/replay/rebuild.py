"""A replay: sessions rebuilt from the reply topic beside the live ones, compared with them, put in their place.

1. Read every reply partition into a working copy (`store.redis.working_copy`). Nothing live is touched, nothing is
   generated or published, and no consumer group is involved.
2. Compare each session with the live one.
3. If told so, put the rebuilt ones in their place: each in one step, and never over what a worker wrote meanwhile.

Several processes (`ops.replay.crew`) share the work: each reads some of the partitions, then compares whatever sessions
it is handed. Killed at any moment, it goes on where it was: what is read is in the working copy together with how far.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from secrets import token_hex

from aiokafka import AIOKafkaConsumer

from ops.background import in_background
from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.reading import span_reader, whole_topic
from ops.replay.comparing import Terms
from ops.replay.crew import Here, Place, all_of, deal_out
from ops.replay.outcome import Outcome
from ops.replay.process import Part
from ops.replay.reading import Folding, Spans, erased_in, position_of, unreadable_in
from ops.replay.selection import Selection
from ops.replay.snapshots import SnapshotReading, SnapshotWriting
from schemas.session import SessionData
from store.errors import StoreError
from store.redis.working_copy import WorkingCopy
from store.seals import NO_KEYS, Seals

Advance = Callable[[int, int | None], None]
"""Takes how many records or sessions are done, and of how many."""
Stage = Callable[[str], AbstractContextManager[Advance]]
"""Shows how far something is, while the block runs."""
ALONE_BELOW = 50_000
"""So few records are not worth sharing."""
_TRUSTED = 0.9
"""For how much of the time that it is kept a working copy is taken for whole."""
_LEASE_EVERY_SECONDS = 4.0
_CATCH_UP_ROUNDS = 3
_STARTED, _SEEDED, _COVERED, _COMPARED = "started_ms", "seeded", "covered:", "compared"


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Where snapshots are, and which life of the reply topic they must be about (`schemas.incarnation`)."""

    topic: str
    covers: str


class Rebuild:
    """One replay."""

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        copy: WorkingCopy,
        selection: Selection,
        *,
        ttl_seconds: float,
        records_per_second: int | None = None,
        crew: Sequence[Place] = (),
        snapshots: Snapshots | None = None,
        seals: Seals = NO_KEYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ttl_seconds`: how long a session lives that says nothing else. `crew` are the processes that share the
        work; without any this one does all. `snapshots` None: without any."""
        self._seals = seals
        self._snapshots = snapshots
        self._covered: dict[int, int] = {}
        """Per reply partition, below which offset the snapshots have everything."""
        self._connection = connection
        self._topic = topic
        self._copy = copy
        self._selection = selection
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._part = Part(
            connection,
            topic,
            copy,
            selection,
            self._may_go_on,
            lambda: nullcontext(seals),
            ttl_seconds=ttl_seconds,
            records_per_second=records_per_second,
            clock=clock,
        )
        self._places: Sequence[Place] = crew or [Here(self._part)]
        self._token = token_hex(8)
        self._lost_lease = False
        self._begins: dict[int, int] = {}
        self._incomplete: set[str] = set()
        """Sessions of which events are not retained."""
        self.ends: dict[int, int] = {}
        """How far the reply topic was read."""

    async def run(self, stage: Stage, *, execute: bool) -> Outcome:
        """Rebuilds and compares; with `execute` the store has what the topics say afterwards.

        Raises:
            OpsError: Kafka or Redis is away, or another replay of the same sessions is running.
        """
        outcome = Outcome(executed=execute)
        async with self._alone():
            await self._rebuild(outcome, stage)
            with stage("Comparing sessions") as advance:
                await self._compare_all(outcome, advance, execute)
            await self._drop()
        return outcome

    async def snapshot(self, stage: Stage, writing: SnapshotWriting) -> Outcome:
        """Rebuilds all sessions and publishes a snapshot of each that has none just so; nothing is compared.

        Raises:
            OpsError: as `run`.
        """
        assert self._snapshots is not None
        outcome = Outcome()
        async with self._alone():
            await self._rebuild(outcome, stage)
            with stage("Writing snapshots") as advance:
                await writing.run(self._copy, self._snapshots.covers, self.ends, self._expired, advance)
            await self._drop()
        return outcome

    async def _rebuild(self, outcome: Outcome, stage: Stage) -> None:
        with stage("Reading records") as advance:
            await self._read(outcome, advance)
            await self._place_held()
        if self._is_too_old():
            # To take what Redis has forgotten by now for what never was would remove live sessions.
            raise OpsError(
                f"Reading took longer than the {self._copy.keep_seconds / 3600:g} hours for which Redis keeps what was "
                "read. Read faster (--rate, --processes), from snapshots, or some partitions at a time (--partition)."
            )

    def _expired(self, session: SessionData) -> bool:
        return session.expires_at(self._ttl_seconds) <= self._clock()

    # ---- reading

    async def _read(self, outcome: Outcome, advance: Advance) -> None:
        progress = await self._resume()
        async with span_reader(self._connection, seals=self._seals) as consumer:
            await self._bounds(consumer)
            outcome.snapshots = await self._seed(consumer, progress)
            first = {n: max(begin, self._covered.get(n, 0)) for n, begin in self._begins.items()}
            starts = {n: max(begin, progress.get(position_of(n), 0)) for n, begin in first.items()}
            outcome.resumed_at = sum(starts[n] - begin for n, begin in first.items())
            spans = {n: (start, self.ends[n]) for n, start in starts.items() if start < self.ends[n]}
            alone = not self._worth_sharing(spans)
            if alone:
                await self._told(self._part.reading(consumer).run(spans), spans, outcome, advance)
        # By now that consumer is gone: it would go on fetching what nobody takes.
        if not alone:
            await self._told(self._read_shares(spans), spans, outcome, advance)
        counted = await self._copy.progress()
        outcome.unreadable, outcome.erased = unreadable_in(counted), erased_in(counted)

    async def _resume(self) -> dict[str, int]:
        """How far an earlier run came that was killed."""
        progress = await self._copy.progress()
        self._started = progress.get(_STARTED, int(self._clock() * 1000)) / 1000
        if _COMPARED in progress or self._is_too_old():
            await self._drop()
            progress, self._started = {}, self._clock()
        await self._copy.save_progress({_STARTED: int(self._started * 1000)})
        return progress

    def _is_too_old(self) -> bool:
        """Redis may have forgotten a session that was read first."""
        return self._clock() - self._started > _TRUSTED * self._copy.keep_seconds

    def _worth_sharing(self, spans: Spans) -> bool:
        total = sum(end - begin for begin, end in spans.values())
        return total >= ALONE_BELOW and len(spans) > 1 and len(self._places) > 1

    async def _told(self, reading: Awaitable[None], spans: Spans, outcome: Outcome, advance: Advance) -> None:
        """Runs `reading`; says how far it is, and how much it was."""
        total = sum(end - begin for begin, end in spans.values())
        began = time.monotonic()
        async with in_background(self._tell(spans, total, advance), "tell"):
            await reading
        outcome.records += total
        outcome.seconds_reading += time.monotonic() - began
        advance(total, total)

    async def _read_shares(self, spans: Spans) -> None:
        """Partitions are dealt out by their size, largest first."""
        shares: list[dict[int, tuple[int, int]]] = [{} for _ in self._places[: len(spans)]]
        for number, (begin, end) in sorted(spans.items(), key=lambda item: item[1][0] - item[1][1]):
            smallest = min(shares, key=lambda share: sum(e - b for b, e in share.values()))
            smallest[number] = (begin, end)
        await all_of(
            [place.ask(Part.read, share) for place, share in zip(self._places, shares, strict=False)], self._may_go_on
        )

    async def _tell(self, spans: Spans, total: int, advance: Advance) -> None:
        while True:
            await asyncio.sleep(0.5)
            progress = await self._copy.progress()
            done = sum(max(0, progress.get(position_of(n), 0) - begin) for n, (begin, _) in spans.items())
            advance(min(done, total), total)

    async def _bounds(self, consumer: AIOKafkaConsumer) -> None:
        """Where the selected partitions begin and end now."""
        spans = {place.partition: span for place, span in (await whole_topic(consumer, self._topic)).items()}
        if unknown := self._selection.partitions - spans.keys():
            raise OpsError(f"{self._topic} has no partition {min(unknown)}, only 0 to {max(spans)}")
        meant = self._selection.partitions or spans.keys()
        self._begins = {n: begin for n, (begin, _) in spans.items() if n in meant}
        self.ends = {n: end for n, (_, end) in spans.items() if n in meant}

    async def _seed(self, consumer: AIOKafkaConsumer, progress: Mapping[str, int]) -> int:
        """Begins with snapshots, where there are any. Returns how many."""
        if self._snapshots is None:
            return 0
        if _SEEDED in progress:
            self._covered = {n: progress[at] for n in self._begins if (at := f"{_COVERED}{n}") in progress}
            return progress[_SEEDED]
        if self._snapshots.topic not in await consumer.topics():
            return 0
        reading = SnapshotReading(consumer, self._snapshots.topic, self._copy, self._selection)
        self._covered = await reading.run(self._snapshots.covers)
        covered = {f"{_COVERED}{n}": offset for n, offset in self._covered.items()}
        await self._copy.save_progress({**covered, _SEEDED: reading.taken})
        return reading.taken

    async def _place_held(self) -> None:
        """Events that came before their predecessors, which lay in another partition."""
        for session_id in await self._copy.held_sessions():
            folding = Folding(self._copy)
            folding.take(session_id, await self._copy.held(session_id))
            await self._copy.drop_held(session_id)
            # What still follows nothing is held again.
            await folding.flush()
        self._incomplete = set(await self._copy.held_sessions())

    # ---- comparing

    async def _compare_all(self, outcome: Outcome, advance: Advance, execute: bool) -> None:
        cut = any(begin > self._covered.get(n, 0) for n, begin in self._begins.items())
        terms = Terms(execute=execute, started=self._started, cut=cut)
        ahead = await self._compare_rebuilt(self._copy.pages(), terms, outcome, advance)
        for _ in range(_CATCH_UP_ROUNDS):
            if not ahead or execute:
                break
            # They took turns meanwhile; with those they can be compared as well.
            await self._catch_up()
            ahead = await self._compare_rebuilt(_one_page(ahead), terms, outcome, advance)
        outcome.kinds["ahead"] += len(ahead)
        await self._compare_live(terms, outcome)

    async def _compare_rebuilt(
        self, pages: AsyncGenerator[list[str]], terms: Terms, outcome: Outcome, advance: Advance
    ) -> list[str]:
        """Returns the sessions that are ahead of what was read."""
        ahead: list[str] = []
        done = 0

        async def compare(place: Place, page: list[str]) -> None:
            nonlocal done
            found, further = await place.ask(Part.compare_rebuilt, terms, page, self._incomplete.intersection(page))
            outcome.take_in(found)
            ahead.extend(further)
            done += len(page)
            advance(done, None)

        await self._deal_out(pages, compare)
        return ahead

    async def _compare_live(self, terms: Terms, outcome: Outcome) -> None:
        """Live sessions that were not rebuilt."""

        async def compare(place: Place, page: list[str]) -> None:
            outcome.take_in(await place.ask(Part.compare_live, terms, page, self._incomplete.intersection(page)))

        await self._deal_out(self._live_pages(), compare)

    async def _live_pages(self) -> AsyncGenerator[list[str]]:
        if self._selection.sessions:
            yield sorted(self._selection.sessions)
            return
        if self._selection.partitions:
            # Which partition an unknown session's events would be in can't be told for sure.
            return
        async with aclosing(self._copy.live_pages()) as pages:
            async for page in pages:
                if meant := [session_id for session_id in page if self._selection.takes_id(session_id)]:
                    yield meant

    async def _deal_out(
        self, pages: AsyncGenerator[list[str]], do: Callable[[Place, list[str]], Awaitable[None]]
    ) -> None:
        await deal_out(self._places, pages, do, self._may_go_on)

    async def _drop(self) -> None:
        """Removes the working copy. Who is killed meanwhile has nothing to go on with: some of it is gone already."""
        await self._copy.save_progress({_COMPARED: 1})
        await self._deal_out(self._copy.pages(), lambda place, page: place.ask(Part.forget, page))
        await self._copy.drop()

    async def _catch_up(self) -> None:
        before = dict(self.ends)
        async with span_reader(self._connection, seals=self._seals) as consumer:
            await self._bounds(consumer)
            spans = {n: (before.get(n, begin), self.ends[n]) for n, begin in self._begins.items()}
            await self._part.reading(consumer).run(spans)
        await self._place_held()

    # ---- alone

    def _may_go_on(self) -> bool:
        return not self._lost_lease

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """For the block, no other replay of the same sessions. What Redis fails with comes out as an OpsError."""
        try:
            async with self._lease():
                yield
        except StoreError as error:
            raise OpsError(f"{error} Run it again: it goes on where it was.") from error

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[None]:
        if not await self._copy.take_lease(self._token):
            raise OpsError("The same replay is running, or was killed just now: try again in 15 seconds.")
        try:
            async with in_background(self._keep_lease(), "keep-lease"):
                yield
        finally:
            with suppress(StoreError):
                await self._copy.release_lease(self._token)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(_LEASE_EVERY_SECONDS)
            with suppress(StoreError):
                self._lost_lease = not await self._copy.take_lease(self._token)


async def _one_page(session_ids: list[str]) -> AsyncGenerator[list[str]]:
    yield session_ids
