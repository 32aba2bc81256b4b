"""What the broker's configuration of our topics lets through: compression that we can read, and sizes that fit."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog
from aiokafka import codec

from ops.kafka.connection import KafkaConnection
from ops.kafka.topics import TopicAdmin
from schemas.topics import TopicNames, topic_specs

log = structlog.get_logger(__name__)

DEAD_LETTER_FRAMING_BYTES = 4_096
"""More than a dead letter adds to the inbound record: why it failed, its sealing, and the batch around it."""

Configs = Mapping[str, Mapping[str, str]]
"""Per topic its configuration, as the broker has it; empty where the broker does not tell."""

_AS_IT_IS = ("producer", "uncompressed")
_DECODERS: Mapping[str, Callable[[], bool]] = {
    "gzip": codec.has_gzip,
    "snappy": codec.has_snappy,
    "lz4": codec.has_lz4,
    "zstd": codec.has_zstd,
}


@dataclass(frozen=True, slots=True)
class TopicProblem:
    """What is wrong with a topic, and what to do about it."""

    event: str
    """The name of its line in the log."""
    topic: str
    text: str
    hint: str

    def __str__(self) -> str:
        return f"{self.text}: {self.hint}"


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """What the topics let through."""

    dead_letter_bytes: int | None
    """The largest batch that the dead letter topic takes; None where the broker does not tell."""
    problems: list[TopicProblem]


def can_decode(compression: str) -> bool:
    """Whether this process can read records that a broker compressed so."""
    return compression in _AS_IT_IS or _DECODERS.get(compression, lambda: False)()


def limits_of(
    configs: Configs,
    names: TopicNames,
    extra_inbound: Collection[str] = (),
    *,
    decodes: Callable[[str], bool] = can_decode,
) -> TopicLimits:
    """`extra_inbound` are the other topics that workers take records from."""
    dead_letter_bytes = _max_message_bytes(configs, names.dlq)
    problems = _unreadable(configs, decodes)
    for topic in (names.inbound, *extra_inbound):
        largest = _max_message_bytes(configs, topic)
        if largest is None or dead_letter_bytes is None:
            continue
        needed = largest + DEAD_LETTER_FRAMING_BYTES
        if dead_letter_bytes < needed:
            problems.append(
                TopicProblem(
                    "dead_letter_topic_takes_little",
                    names.dlq,
                    f"{names.dlq} takes {dead_letter_bytes} bytes, and a dead letter of {topic} may have {needed}",
                    f"set max.message.bytes of {names.dlq} to {needed} or more",
                )
            )
    return TopicLimits(dead_letter_bytes, problems)


async def topic_limits(
    connection: KafkaConnection, names: TopicNames, extra_inbound: Collection[str] = ()
) -> TopicLimits:
    """`limits_of` as the broker has the topics now, for the start of a process: each problem is logged as a warning.

    Raises:
        OpsError: no broker answers.
    """
    async with TopicAdmin(connection) as admin:
        limits = limits_of(await admin.configs([*_read_by_us(names), *extra_inbound]), names, extra_inbound)
    for problem in limits.problems:
        log.warning(problem.event, topic=problem.topic, problem=problem.text, hint=problem.hint)
    return limits


def _read_by_us(names: TopicNames) -> list[str]:
    return [spec.name for spec in topic_specs(names, 1)]


def _unreadable(configs: Configs, decodes: Callable[[str], bool]) -> list[TopicProblem]:
    return [
        TopicProblem(
            "compression_unreadable",
            topic,
            f"{topic} has compression.type {compression}, which this installation can't read",
            "set compression.type to producer, or install cramjam",
        )
        for topic, config in configs.items()
        if (compression := config.get("compression.type", "producer")) and not decodes(compression)
    ]


def _max_message_bytes(configs: Configs, topic: str) -> int | None:
    told = configs.get(topic, {}).get("max.message.bytes")
    return int(told) if told else None
