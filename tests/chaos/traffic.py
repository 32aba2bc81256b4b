"""Traffic that goes on through a fault: customers on sockets who come back and ask again, and a system that publishes
on the topic. What each saw is kept, so that afterwards it can be said whether anybody noticed.
"""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from websockets.exceptions import WebSocketException

from tests.customers import Customer, Frame
from tests.processes import Pipeline, Process

ANSWER_WITHIN_S = 90.0
"""A message that isn't answered by then has been lost."""
SAID_AGAIN_AFTER_S = 10.0
"""A customer who has not even heard that the message was accepted says it again, with the same id."""
_SYSTEM_SESSIONS = 64
"""So many that none gets messages faster than slow answers go out."""
_CANARY = re.compile(r"#[0-9a-f]{10}")


@dataclass(slots=True)
class Said:
    """A message on its way to its answer. Times by a monotonic clock."""

    id: str
    at: float
    answered_at: float | None = None

    def open_between(self, begin: float, end: float) -> bool:
        return self.at < end and (self.answered_at is None or self.answered_at > begin)


@dataclass
class PersistentCustomer:
    """Asks one question after the other. A lost connection is opened again, anywhere, and resumed."""

    ingresses: Sequence[Process]
    rng: random.Random
    name: str
    twice: float
    """The share of messages that are sent twice."""
    said: list[Said] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What a customer must never see, seen."""
    reconnected: int = 0
    sent_twice: int = 0
    not_recovered: int = 0
    """How often the edge said to a customer that came back that it can't show everything that was missed."""
    _seen: set[tuple[int, int]] = field(default_factory=set)
    """Places that were shown, or that a welcome said were past."""
    _shown_places: set[tuple[int, int]] = field(default_factory=set)
    _missed: set[str] = field(default_factory=set)
    """The ids that the last welcome brought answers to."""
    _heard: int = 0
    """How many frames of the present socket were looked at."""
    _customer: Customer | None = None

    def __post_init__(self) -> None:
        self.canary = f"#{self.rng.getrandbits(40):010x}"

    @property
    def session_id(self) -> str:
        assert self._customer is not None
        return self._customer.session_id

    async def converse(self, stopped: asyncio.Event) -> None:
        """Until it is stopped; the last message is answered then."""
        await self._connect(time.monotonic() + ANSWER_WITHIN_S)
        while not stopped.is_set():
            await self.ask()
            await asyncio.sleep(self.rng.uniform(0.0, 0.03))
        assert self._customer is not None
        await self._customer.close()

    async def ask(self) -> None:
        """Returns when the message was answered.

        Raises:
            AssertionError: it was not, in time.
        """
        said = Said(f"{self.name}-{len(self.said)}", time.monotonic())
        self.said.append(said)
        deadline = said.at + ANSWER_WITHIN_S
        again_at = 0.0
        while not self._answered(said):
            assert time.monotonic() < deadline, (
                f"{self.name} of {self.session_id}: {said.id} was not answered in {ANSWER_WITHIN_S:g} s; "
                f"the last it saw: {self._customer.frames[-3:] if self._customer else None}"
            )
            if self._customer is None or self._customer.gone:
                await self._connect(deadline)
                # What was said on the lost socket may never have arrived.
                again_at = 0.0
                continue
            accepted = any(frame["id"] == said.id for frame in self._customer.of_type("accepted"))
            if not accepted and time.monotonic() >= again_at:
                again_at = time.monotonic() + SAID_AGAIN_AFTER_S
                await self._say(said)
            if any(self._refused(frame, said) for frame in self._customer.frames[self._heard :]):
                again_at = 0.0
                await asyncio.sleep(0.2)
            self._heard = len(self._customer.frames)
            await self._customer.anything(within_s=1.0)
        said.answered_at = time.monotonic()

    async def _say(self, said: Said) -> None:
        assert self._customer is not None
        twice = self.rng.random() < self.twice
        try:
            for _ in range(1 + twice):
                await self._customer.say(f"{said.id} {self.canary}", said.id)
        except (WebSocketException, OSError):
            return
        self.sent_twice += twice

    @staticmethod
    def _refused(frame: Frame, said: Said) -> bool:
        return frame["type"] == "error" and frame.get("id") == said.id and frame.get("seq") is None

    def _answered(self, said: Said) -> bool:
        """Looks at what came, and whether the answer is among it."""
        if self._customer is None:
            return said.id in self._missed
        found = said.id in self._missed
        for frame in self._customer.take_sequenced():
            if (frame["epoch"], frame["seq"] - 1) not in self._seen and frame["seq"] > 1:
                self.complaints.append(f"O: {self.session_id} was shown seq {frame['seq']} without the one before")
            found = self._shown(frame) == said.id or found
        return found

    def _shown(self, frame: Frame) -> str | None:
        """Notes a frame with a place in the session; the id that it answers, if it does."""
        place = (frame["epoch"], frame["seq"])
        if place in self._shown_places:
            self.complaints.append(f"D: {self.session_id} was shown seq {frame['seq']} twice")
        self._seen.add(place)
        self._shown_places.add(place)
        if strangers := set(_CANARY.findall(str(frame))) - {self.canary}:
            self.complaints.append(f"X: {self.session_id} was shown {strangers}")
        return frame["id"] if frame["type"] in ("reply", "error") else None

    def _welcomed(self, *, resumed: bool) -> None:
        """Where the edge says that it could not bring back everything, a gap is allowed."""
        assert self._customer is not None
        welcome = self._customer.welcome
        self._missed = {id for frame in welcome["missed"] if (id := self._shown(frame))}
        self._seen.add((welcome["epoch"], welcome["seq"]))
        if resumed and not welcome["recovered"]:
            self.not_recovered += 1

    async def _connect(self, deadline: float) -> None:
        before, self._heard = self._customer, 0
        while True:
            ingress = self.rng.choice(self.ingresses)
            try:
                if before is None:
                    self._customer = await Customer.join(ingress)
                else:
                    self._customer = await before.rejoin(ingress)
                    self.reconnected += 1
                self._welcomed(resumed=before is not None)
                return
            except (WebSocketException, OSError, AssertionError, TimeoutError) as error:
                refused = repr(error)
            assert time.monotonic() < deadline, f"{self.name}: no ingress lets it in: {refused}"
            await asyncio.sleep(self.rng.uniform(0.05, 0.3))


@dataclass
class System:
    """Another system that publishes for its own sessions, some records twice, and reads no replies."""

    pipeline: Pipeline
    rng: random.Random
    twice: float
    said: list[Said] = field(default_factory=list)
    sent_twice: int = 0

    async def publish(self, stopped: asyncio.Event) -> None:
        sessions = [f"system:{self.rng.getrandbits(48):012x}" for _ in range(_SYSTEM_SESSIONS)]
        producer = AIOKafkaProducer(
            bootstrap_servers=self.pipeline.bootstrap_servers, acks="all", request_timeout_ms=60_000
        )
        await producer.start()
        try:
            while not stopped.is_set():
                await self._publish(producer, self.rng.choice(sessions))
                await asyncio.sleep(self.rng.uniform(0.0, 0.05))
        finally:
            await producer.stop()

    async def _publish(self, producer: AIOKafkaProducer, session_id: str) -> None:
        said = Said(f"system-{len(self.said)}", time.monotonic())
        twice = self.rng.random() < self.twice
        value = orjson.dumps({"id": said.id, "text": f"Number {len(self.said)}"})
        for _ in range(1 + twice):
            try:
                await producer.send_and_wait(self.pipeline.topics.inbound, value, session_id.encode())
            except KafkaError:
                # Kafka may have it all the same; if it has, it must be answered, and verify looks at what Kafka has.
                return
        said.answered_at = time.monotonic()
        self.said.append(said)
        self.sent_twice += twice


class Traffic:
    """Customers and a system at work."""

    def __init__(self, pipeline: Pipeline, rng: random.Random, *, customers: int) -> None:
        self._pipeline = pipeline
        self._rng = rng
        self._count = customers
        self.twice = 0.02
        """The share of messages that are sent twice; before `start`."""
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.customers: list[PersistentCustomer] = []
        self.system: System | None = None

    async def start(self, ingresses: Sequence[Process], *, system: bool = True) -> None:
        rngs = [random.Random(self._rng.getrandbits(64)) for _ in range(self._count)]
        self.customers = [PersistentCustomer(ingresses, rng, f"c{n}", self.twice) for n, rng in enumerate(rngs)]
        self._tasks = [asyncio.create_task(customer.converse(self._stopped)) for customer in self.customers]
        if system:
            self.system = System(self._pipeline, random.Random(self._rng.getrandbits(64)), self.twice)
            self._tasks.append(asyncio.create_task(self.system.publish(self._stopped)))
        await self.answered_more(len(self.customers))

    async def stop(self) -> None:
        """Everybody gets their last answer first."""
        self._stopped.set()
        await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        """After a failure: ends without waiting for answers."""
        self._stopped.set()
        while left := [task for task in self._tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1.0)

    async def answered_more(self, count: int, within_s: float = 60.0) -> None:
        """Returns when so many more messages were answered than now."""
        goal = self.answered + count
        deadline = time.monotonic() + within_s
        while self.answered < goal:
            self.raise_what_failed()
            assert time.monotonic() < deadline, f"only {self.answered + count - goal} of {count} answers came"
            await asyncio.sleep(0.02)

    def raise_what_failed(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    @property
    def said(self) -> list[Said]:
        return [said for customer in self.customers for said in customer.said] + (
            self.system.said if self.system else []
        )

    @property
    def answered(self) -> int:
        """How many of the customers' messages were."""
        return sum(said.answered_at is not None for customer in self.customers for said in customer.said)

    @property
    def sent_twice(self) -> int:
        system = self.system.sent_twice if self.system else 0
        return system + sum(customer.sent_twice for customer in self.customers)

    @property
    def complaints(self) -> list[str]:
        return [complaint for customer in self.customers for complaint in customer.complaints]

    @property
    def not_recovered(self) -> int:
        """How often the edge could not bring back what a customer had missed."""
        return sum(customer.not_recovered for customer in self.customers)

    def longest_wait(self) -> float:
        """Of any customer's message for its answer, in seconds."""
        waits = (
            said.answered_at - said.at for customer in self.customers for said in customer.said if said.answered_at
        )
        return max(waits, default=0.0)
