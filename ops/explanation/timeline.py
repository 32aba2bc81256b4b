"""The story of one message, told from what the topics have of it. No I/O, no clock.

What isn't recorded isn't told: when the store took the turn (between `decided` and `published`), and which sockets
showed the reply.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ops.dead_letters import REDRIVEN, DeadLetter
from schemas.errors import InvalidRecord
from schemas.headers import header
from schemas.identity import derived_inbound_id
from schemas.inbound import InboundEvent, Message, decode_inbound
from schemas.publishing import Position
from schemas.replies import Citation, ReplyEvent, TurnCompleted, TurnFailed
from workers.records import KafkaRecord


@dataclass(frozen=True, slots=True)
class Asked:
    """An inbound record."""

    position: Position
    at: datetime
    """By Kafka's clock, or that of who published it."""
    event: InboundEvent | None
    """None: it can't become one; `problem` says why."""
    problem: str = ""
    redriven_from: str | None = None
    """The dead letter, `PARTITION:OFFSET`, that it was sent back from."""


@dataclass(frozen=True, slots=True)
class Told:
    """A reply record."""

    position: Position
    at: datetime
    event: ReplyEvent


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened."""

    name: str
    at: datetime | None = None
    took_ms: float | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One message from end to end."""

    message_id: str
    session_id: str | None
    question: str | None
    reply: str | None
    outcome: str
    """`answered`, `received` (a person holds the session), `failed`, `dead letter` or `open`."""
    citations: Sequence[Citation] = ()
    steps: Sequence[Step] = ()
    total_ms: float | None = None
    """From acceptance until the reply was published."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Generator, kb_version, confidence, epoch and seq, where there are any."""


def asked(record: KafkaRecord, timestamp_ms: int) -> Asked:
    """An inbound record, read."""
    position = Position(record.topic, record.partition, record.offset)
    redriven = header(record.headers, REDRIVEN)
    redriven_from = redriven.decode(errors="replace") if redriven else None
    at = _time(timestamp_ms)
    try:
        event = decode_inbound(record.value, record.key, record.topic, record.partition, record.offset)
    except InvalidRecord as error:
        return Asked(position, at, None, f"{error.reason}: {error.detail}", redriven_from)
    return Asked(position, at, event, redriven_from=redriven_from)


def inbound_id(record: Asked) -> str:
    """The id that the record's outcome goes by."""
    return record.event.id if record.event is not None else derived_inbound_id(*_place(record.position))


def timeline(
    message_id: str, records: Iterable[Asked], replies: Iterable[Told], letters: Iterable[DeadLetter]
) -> Timeline:
    """The story of `message_id`; what is handed in is about it, in any order."""
    questions = sorted(records, key=lambda each: (each.at, each.position.offset))
    answers = sorted(replies, key=lambda each: (each.at, each.position.offset))
    failures = sorted(letters, key=lambda each: each.failed_at)
    message = next((each.event for each in questions if isinstance(each.event, Message)), None)
    final = answers[-1].event if answers else None
    steps = [
        *_accepted(questions, message),
        *(step for letter in failures for step in _failed(letter)),
        *_turns(answers),
    ]
    reply = final.reply if isinstance(final, TurnCompleted) else None
    question = message.text if message else None
    if question is None and isinstance(final, TurnCompleted) and final.message is not None:
        question = final.message.text
    return Timeline(
        message_id,
        _session_of(questions, answers, failures),
        question,
        reply.text if reply else None,
        _outcome(final, failures),
        reply.citations if reply else (),
        steps,
        (answers[0].at - questions[0].at).total_seconds() * 1000 if answers and questions else None,
        _extra(final),
    )


def _accepted(questions: Sequence[Asked], message: Message | None) -> list[Step]:
    steps = []
    if message is not None and message.sent_at:
        steps.append(Step("sent", datetime.fromisoformat(message.sent_at.upper().replace("Z", "+00:00"))))
    for number, each in enumerate(questions):
        where = "{}, partition {}, offset {}".format(*_place(each.position))
        if each.redriven_from:
            steps.append(Step("redriven", each.at, what=f"{where}; from dead letter {each.redriven_from}"))
        elif number:
            steps.append(Step("came again", each.at, what=f"{where}; dropped by its id"))
        else:
            steps.append(Step("accepted", each.at, what=where))
        if each.problem:
            steps.append(Step("not readable", each.at, what=each.problem))
    return steps


def _failed(letter: DeadLetter) -> list[Step]:
    tried = f"{letter.attempts} attempt{'s' if letter.attempts != 1 else ''}"
    what = f"{letter.reason}: {letter.error} ({tried}); dead letter {letter.place}"
    return [Step("gave up", letter.failed_at, what=what)]


def _turns(answers: Sequence[Told]) -> list[Step]:
    steps: list[Step] = []
    seen: set[str] = set()
    for each in answers:
        event = each.event
        where = "{}, partition {}, offset {}".format(*_place(each.position))
        if event.id in seen:
            steps.append(Step("published again", each.at, what=f"{where}; a worker's last turn, taken up again"))
            continue
        seen.add(event.id)
        steps += _decided(event)
        steps.append(Step("published", each.at, what=f"{where}; seq {event.seq}"))
    return steps


def _decided(event: ReplyEvent) -> list[Step]:
    at = datetime.fromisoformat(event.completed_at.upper().replace("Z", "+00:00"))
    if isinstance(event, TurnFailed):
        return [Step("failed", at, what=f"{event.code}: {event.error}")]
    if not isinstance(event, TurnCompleted):
        return [Step(event.type, at)]
    spent = event.timings_ms
    steps = [Step("waited in its lane", took_ms=spent["lane_wait"])] if "lane_wait" in spent else []
    reply = event.reply
    if reply is None:
        return [*steps, Step("received", at, what="a person holds the session")]
    if "retrieve" in spent and reply.kb_version:
        found = f"{len(reply.citations)} cited; knowledge {reply.kb_version}"
        steps.append(Step("retrieved", took_ms=spent["retrieve"], what=found))
    if "generate" in spent:
        steps.append(Step("generated", took_ms=spent["generate"], what=reply.generator))
    escalated = event.changes is not None and event.changes.escalated
    return [*steps, Step("decided", at, what="escalated to a person" if escalated else "")]


def _session_of(questions: Sequence[Asked], answers: Sequence[Told], letters: Sequence[DeadLetter]) -> str | None:
    named = [
        *(each.event.session_id for each in questions if each.event is not None),
        *(each.event.session_id for each in answers),
        *(each.session_id for each in letters if each.session_id),
    ]
    return named[0] if named else None


def _outcome(final: ReplyEvent | None, letters: Sequence[DeadLetter]) -> str:
    match final:
        case TurnCompleted(reply=None):
            return "received"
        case TurnCompleted():
            return "answered"
        case TurnFailed():
            return "failed"
        case None:
            return "dead letter" if letters else "open"
    return "done"


def _extra(final: ReplyEvent | None) -> dict[str, Any]:
    if final is None:
        return {}
    extra: dict[str, Any] = {"epoch": final.epoch, "seq": final.seq}
    if isinstance(final, TurnCompleted) and final.reply is not None:
        reply = final.reply
        extra |= {"generator": reply.generator, "kb_version": reply.kb_version, "confidence": reply.confidence}
    return extra


def _place(position: Position) -> tuple[str, int, int]:
    return position.topic, position.partition, position.offset


def _time(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
