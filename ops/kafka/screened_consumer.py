"""The consumer of every process: aiokafka's, reading only what is committed, with a poll that takes all or nothing.

aiokafka (0.14) drains one partition after the other in `getmany`, and an exception on the way loses what it drained
before. Here the exception changes nothing: the next poll gives the same records again. decision 18 says what is used of
aiokafka beyond its public interface: `_client`, `_fetcher`, `_subscription`, and the form of a fetch response.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from ops.kafka.fetch_screen import BrokenBatch, FetchScreen
from schemas.sealed import any_sealed
from store.seals import NO_KEYS, Seals
from workers.errors import ClientBroken, PartitionUnreadable
from workers.records import offset_after

_LATEST = -1
_READ_UNCOMMITTED = 0
"""Numbers of Kafka's ListOffsets request."""

Batches = dict[TopicPartition, list[Any]]


class ScreenedConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
    """An aiokafka consumer with these differences:

    - It reads committed transactions only.
    - `getmany` that raises has taken nothing.
    - A batch that can't be decoded makes `getmany` raise PartitionUnreadable, after what came with it was returned; its
      partition stays where it is. Pause it to read the others.
    - A batch that unpacks to too much comes as one UnreadableRecord.
    - Header names that are no UTF-8 come escaped.
    - With `seals`, sealed values come opened; one that is still sealed was erased.
    """

    def __init__(self, *topics: str, seals: Seals = NO_KEYS, **arguments: Any) -> None:
        # Checksums are looked at by the screen, before anything is unpacked.
        super().__init__(*topics, **{**arguments, "check_crcs": False, "isolation_level": "read_committed"})
        self._seals = seals
        self._screen = FetchScreen()
        self._client: Any = _ScreeningClient(self._client, self._screen, self._fetched)
        self._owed: PartitionUnreadable | None = None
        """To be raised by the next poll: the last one had records of other partitions to return."""
        self._next: dict[TopicPartition, int] = {}
        """Per partition the offset of the first record that was not returned yet."""

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        self._next.clear()
        super().assign(partitions)

    async def seek_to_beginning(self, *partitions: TopicPartition) -> bool:
        self._forget(partitions)
        return bool(await super().seek_to_beginning(*partitions))

    async def seek_to_end(self, *partitions: TopicPartition) -> bool:
        self._forget(partitions)
        return bool(await super().seek_to_end(*partitions))

    def _forget(self, partitions: Collection[TopicPartition]) -> None:
        for place in partitions or self.assignment():
            self._next.pop(place, None)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        super().seek(partition, offset)
        self._next[partition] = offset

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Batches:
        """As aiokafka's; see the class for what differs.

        Raises:
            ClientBroken: this consumer is of no use any more.
            PartitionUnreadable: the next batch of a partition can't be decoded.
            StoreError: the keys of what is sealed can't be read.
            Others, as aiokafka: nothing was taken.
        """
        owed, self._owed = self._owed, None
        read = self.assignment() - self.paused() if owed is not None else ()
        if owed is not None and TopicPartition(owed.topic, owed.partition) in read:
            raise owed
        if ended := self._ended_task():
            raise ClientBroken(f"The Kafka client's {ended} task has ended.")
        try:
            batches: Batches = await super().getmany(*partitions, timeout_ms=timeout_ms, max_records=max_records)
        except UnicodeDecodeError:
            if self._screen.escapes_names:
                self._rewind()
                raise
            self._screen.escapes_names = True
            self._rewind()
            return {}
        except Exception:
            self._rewind()
            raise
        if self._screen.notes:
            batches = self._with_notes(batches)
        if self._seals is not NO_KEYS:
            try:
                batches = await self._opened(batches)
            except BaseException:
                self._rewind()
                raise
        for place, records in batches.items():
            self._next[place] = offset_after(records[-1])
        return batches

    def _ended_task(self) -> str | None:
        """Which of the client's own tasks has ended, by an exception that it does not handle; it starts none anew."""
        if self._closed:
            return None
        if self._fetcher is not None and self._fetcher.error_future.done():
            return "fetch"
        coordination = getattr(self._coordinator, "_coordination_task", None)
        if coordination is not None and coordination.done():
            return "coordination"
        metadata = getattr(self._client, "_sync_task", None)
        if metadata is not None and metadata.done():
            return "metadata"
        return None

    async def log_ends(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the logs end, open transactions included; `end_offsets` is where they begin. Raises KafkaError."""
        by_leader: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for place in places:
            leader = self._client.cluster.leader_for_partition(place)
            if leader is None or leader == -1:
                raise LeaderNotAvailableError(place)
            by_leader[leader][place.topic].append((place.partition, _LATEST))
        ends: dict[TopicPartition, int] = {}
        for leader, topics in by_leader.items():
            response = await self._client.send(leader, OffsetRequest(-1, _READ_UNCOMMITTED, list(topics.items())))
            for topic, partitions in response.topics:
                for partition, code, *told in partitions:
                    if code:
                        raise for_code(code)(f"{topic}:{partition}")
                    ends[TopicPartition(topic, partition)] = told[-1]
        return ends

    async def _opened(self, batches: Batches) -> Batches:
        opened: Batches = {}
        for place, records in batches.items():
            values = [record.value for record in records]
            if any_sealed(values):
                values = await self._seals.opened(values)
                records = [replace(record, value=value) for record, value in zip(records, values, strict=True)]
            opened[place] = records
        return opened

    def _fetched(self, place: TopicPartition, offset: int) -> None:
        """The broker was asked for records from `offset` on; where nothing was returned yet, they are the first."""
        self._next.setdefault(place, offset)

    def _rewind(self) -> None:
        for place in self.assignment() & self._next.keys():
            super().seek(place, self._next[place])

    def _with_notes(self, batches: Batches) -> Batches:
        """The batches with what the screen noted in place of its empty records."""
        passed: Batches = {}
        unreadable: PartitionUnreadable | None = None
        for place, records in batches.items():
            kept: list[Any] = []
            for record in records:
                note = self._screen.notes.pop((*place, record.offset), None)
                if isinstance(note, BrokenBatch):
                    super().seek(place, note.offset)
                    unreadable = PartitionUnreadable(place.topic, place.partition, note.offset, note.reason)
                    break
                kept.append(record if note is None else note)
            if kept:
                passed[place] = kept
        if unreadable is not None and not passed:
            raise unreadable
        self._owed = unreadable
        return passed


class _ScreeningClient:
    """The network client of a consumer, with fetched records screened. All else goes to the client itself."""

    def __init__(self, client: Any, screen: FetchScreen, fetched: Callable[[TopicPartition, int], None]) -> None:
        self._inner = client
        self._screen = screen
        self._fetched = fetched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, node_id: int, request: Any, **arguments: Any) -> Any:
        try:
            response = await self._inner.send(node_id, request, **arguments)
        except KafkaError:
            raise
        except Exception as error:
            # A transport that was reset raises RuntimeError on uvloop. The client's own tasks handle KafkaError only.
            raise KafkaConnectionError(f"Request to node {node_id} failed: {type(error).__name__}: {error}") from error
        if isinstance(request, FetchRequest):
            self._screened(request, response)
        return response

    def _screened(self, request: Any, response: Any) -> None:
        fetched_from = {
            (topic, partition): offset for topic, partitions in request.topics for partition, offset, _ in partitions
        }
        for (topic, partition), offset in fetched_from.items():
            self._fetched(TopicPartition(topic, partition), offset)
        response.topics = [
            (
                topic,
                [
                    (*part[:-1], self._screen.passed(topic, part[0], fetched_from[topic, part[0]], part[-1]))
                    if part[-1]
                    else part
                    for part in partitions
                ],
            )
            for topic, partitions in response.topics
        ]
