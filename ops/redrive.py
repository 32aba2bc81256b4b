"""Redriving: dead letters go back to the topics that they came from, so that they are answered after all.

1. Read the topic once: which letters may go, which are skipped and why. Of each is kept where it stands, and its ids.
2. Read what the other topics hold of their fates (`ops.letter_fates`): only letters that wait go.
3. Read the topic again and publish, each session's in the order of its original records.

What was sent names its letter, so a redrive that broke off is simply run again: it sends what was not sent.
"""

from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

import orjson

from ops.dead_letters import REDRIVEN, DeadLetter, Place, Selection
from ops.errors import OpsError
from ops.letter_fates import Asked, Fates, State, Successors, asked_of
from schemas.errors import InvalidReason
from schemas.identity import derived_inbound_id
from schemas.partition import home_partition
from schemas.publishing import BrokerUnavailable, Position, Publisher, Record, RecordTooLarge
from store.errors import StoreUnavailable
from store.seals import Seals

NEVER_A_TURN: frozenset[str] = frozenset(get_args(InvalidReason))
"""Reasons that lie in the record itself."""

Gather = Callable[[Fates], Awaitable[None]]
"""Hands the evidence that the topics hold to `Fates`. Raises OpsError."""
_WHY_STAYS: dict[State, str] = {
    State.REDRIVEN: "sent back before, and not answered yet",
    State.ANSWERED: "answered",
    State.FAILED_AGAIN: "failed again: its newer letter stands for it",
    State.ERASED: "erased: its session was deleted",
    State.NO_VALUE: "has no value, it was too large for the dead letter topic: publish it again from its source",
    State.UNKNOWN: "the reply topic no longer tells whether it was answered: publish it again from its source",
}
Lane = tuple[str, str]
"""A topic, and the session whose records in it keep their order."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What a plan keeps of a dead letter that goes back."""

    failed_at: datetime
    place: Place
    origin: Position
    reason: str
    lane: Lane

    @property
    def position(self) -> tuple[int, int, Place]:
        """Orders a lane: as the records stood."""
        return self.origin.partition, self.origin.offset, self.place


@dataclass(slots=True)
class Plan:
    """What a redrive would do."""

    letters: list[Planned] = field(default_factory=list)
    """Oldest failure first."""
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many stay, by reason and why."""

    @property
    def groups(self) -> Counter[tuple[str, str]]:
        """How many go back, by reason and topic."""
        return Counter((letter.reason, letter.origin.topic) for letter in self.letters)


async def plan_redrive(
    letters: AsyncIterator[DeadLetter],
    selection: Selection,
    topics: Collection[str],
    limit: int | None,
    gather: Gather,
) -> Plan:
    """`topics` are those that workers read; `limit` takes the oldest failures of those that wait."""
    plan, successors = Plan(), Successors()
    candidates: list[tuple[Planned, Asked]] = []
    async for letter in letters:
        successors.add(letter)
        if not selection.takes(letter):
            continue
        if why := _why_not(letter, selection, topics):
            plan.skipped[letter.reason, why] += 1
            continue
        lane = letter.origin.topic, letter.session_id or str(letter.place)
        planned = Planned(letter.failed_at, letter.place, letter.origin, letter.reason, lane)
        candidates.append((planned, asked_of(letter)))
    fates = Fates((asked for _, asked in candidates), successors)
    await gather(fates)
    for planned, asked in candidates:
        fate = fates.of(asked.place)
        if fate.state is State.WAITING:
            plan.letters.append(planned)
        else:
            plan.skipped[planned.reason, _WHY_STAYS[fate.state]] += 1
    plan.letters.sort(key=lambda letter: (letter.failed_at, letter.place))
    plan.letters = plan.letters[:limit]
    return plan


def _why_not(letter: DeadLetter, selection: Selection, topics: Collection[str]) -> str | None:
    if letter.origin.topic not in topics:
        return f"no worker reads {letter.origin.topic}: EXTRA_INBOUND_TOPICS"
    if letter.reason in NEVER_A_TURN and letter.reason not in selection.reasons:
        return f"can never become a turn; to send it all the same: --reason {letter.reason}"
    return None


class InOrder:
    """Hands out planned letters as they are read, each after those that stand before it in its lane.

    The dead letter topic has most of them in order already; only what comes early is held.
    """

    def __init__(self, plan: Plan) -> None:
        self._lanes = {letter.place: letter.lane for letter in plan.letters}
        self._queues: dict[Lane, deque[Place]] = defaultdict(deque)
        for letter in sorted(plan.letters, key=lambda letter: letter.position):
            self._queues[letter.lane].append(letter.place)
        self._early: dict[Place, DeadLetter] = {}

    def take(self, letter: DeadLetter) -> list[DeadLetter]:
        """What may go now."""
        lane = self._lanes.pop(letter.place, None)
        if lane is None:
            return []
        self._early[letter.place] = letter
        queue = self._queues[lane]
        ready = []
        while queue and queue[0] in self._early:
            ready.append(self._early.pop(queue.popleft()))
        return ready

    def rest(self) -> list[DeadLetter]:
        """What is still held when all was read, in order: retention took what stood before."""
        return [self._early[place] for queue in self._queues.values() for place in queue if place in self._early]


@dataclass(slots=True)
class Report:
    """What a redrive did."""

    redriven: int = 0
    refused: dict[Place, str] = field(default_factory=dict)
    """Records that Kafka doesn't take, and why."""


class Redrive:
    """Publishes what a plan names."""

    def __init__(self, publisher: Publisher, seals: Seals, inbound: str, partitions: Mapping[str, int]) -> None:
        """`partitions` is the partition count of every topic in the plan."""
        self._publisher = publisher
        self._seals = seals
        self._inbound = inbound
        self._partitions = partitions

    async def run(self, letters: AsyncIterator[DeadLetter], plan: Plan, report: Report) -> AsyncIterator[int]:
        """`letters` have their values as they stand in the topic: what is sealed goes back as it is, so that a session
        that is deleted meanwhile finds nothing of it sealed anew.

        Yields how many are through, after each; one is sent when Kafka has the one before.

        Raises:
            OpsError: Kafka is away. What was sent is in `report`.
        """
        order = InOrder(plan)
        async for letter in letters:
            for ready in order.take(letter):
                await self._send(ready, report)
                yield report.redriven + len(report.refused)
        for left in order.rest():
            await self._send(left, report)
            yield report.redriven + len(report.refused)

    async def _send(self, letter: DeadLetter, report: Report) -> None:
        try:
            [value] = await self._seals.opened([letter.value])
            identified = with_identity(value, letter.origin)
            # Ours have an id; only what another system sent in plain text may lack one.
            value = letter.value if identified == value else identified
            await self._publisher.publish(redriven_record(letter, value, self._partition(letter)))
        except RecordTooLarge as error:
            report.refused[letter.place] = str(error)
        except (BrokerUnavailable, StoreUnavailable) as error:
            raise OpsError(
                f"{error} {report.redriven} records were sent back before. Run it again: "
                "what was sent is not sent again."
            ) from error
        else:
            report.redriven += 1

    def _partition(self, letter: DeadLetter) -> int:
        """Its session's home on the inbound topic, whoever put it elsewhere; else where it stood."""
        count = self._partitions[letter.origin.topic]
        if letter.origin.topic == self._inbound and letter.session_id is not None:
            return home_partition(letter.session_id, count)
        return letter.origin.partition % count


def redriven_record(letter: DeadLetter, value: bytes | None, partition: int) -> Record:
    """The original record with `value`, and with where it comes from now."""
    headers = [(name, value) for name, value in letter.headers if name != REDRIVEN]
    return Record(
        letter.origin.topic,
        letter.key,
        value,
        partition,
        [*headers, (REDRIVEN, str(letter.place).encode())],
        letter.session_id,
    )


def with_identity(value: bytes | None, origin: Position) -> bytes | None:
    """`value` with the inbound id that it had where it stood, if it brings none: elsewhere it would get another.

    All else stays byte for byte. What is no JSON object has no identity to keep.
    """
    try:
        body = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return value
    if value is None or not isinstance(body, dict) or body.get("id") is not None:
        return value
    inbound_id = orjson.dumps(derived_inbound_id(origin.topic, origin.partition, origin.offset))
    # At the end: of `"id": null` and this, the last one is read.
    return value.rstrip()[:-1] + (b"," if body else b"") + b'"id":' + inbound_id + b"}"
