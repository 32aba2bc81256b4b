"""Which topic configurations are named: unreadable compression, and a dead letter topic that takes too little."""

import pytest
from aiokafka import codec

from ops.kafka.topic_limits import DEAD_LETTER_FRAMING_BYTES, TopicLimits, can_decode, limits_of
from schemas.topics import TopicNames, topic_specs

NAMES = TopicNames()
OTHER = "crm.tickets"


def limits(**changed: dict[str, str]) -> TopicLimits:
    """Of the topics as they are created, with `changed` for some of them."""
    configs = {spec.name: {"compression.type": "producer", **spec.configs} for spec in topic_specs(NAMES, 12)}
    for name, config in changed.items():
        topic = OTHER if name == "other" else getattr(NAMES, name)
        configs[topic] = {**configs.get(topic, {}), **config}
    return limits_of(configs, NAMES, [OTHER] if "other" in changed else [], decodes=lambda name: name != "zstd")


def test_the_topics_as_they_are_created_have_no_problem() -> None:
    assert limits() == TopicLimits(2_000_000, [])


def test_a_compression_that_cannot_be_read_is_named_with_what_to_do() -> None:
    [problem] = limits(replies={"compression.type": "zstd"}).problems
    assert (problem.event, problem.topic) == ("compression_unreadable", NAMES.replies)
    assert f"{NAMES.replies} has compression.type zstd" in str(problem)
    assert "compression.type to producer" in problem.hint
    assert limits(inbound={"compression.type": "lz4"}).problems == []
    [other] = limits(other={"compression.type": "zstd"}).problems
    assert other.topic == OTHER


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd", "uncompressed", "producer"])
def test_what_the_client_can_decode_can_be_read(compression: str) -> None:
    assert can_decode(compression)


def test_without_cramjam_only_gzip_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "cramjam", None)
    readable = [name for name in ("gzip", "snappy", "lz4", "zstd", "producer", "brotli") if can_decode(name)]
    assert readable == ["gzip", "producer"]


def test_a_dead_letter_topic_must_take_each_inbound_record_and_its_reason() -> None:
    inbound = int(next(s for s in topic_specs(NAMES, 1) if s.name == NAMES.inbound).configs["max.message.bytes"])
    enough = inbound + DEAD_LETTER_FRAMING_BYTES
    assert limits(dlq={"max.message.bytes": str(enough)}) == TopicLimits(enough, [])
    [problem] = limits(dlq={"max.message.bytes": str(enough - 1)}).problems
    assert (problem.event, problem.topic) == ("dead_letter_topic_takes_little", NAMES.dlq)
    assert f"max.message.bytes of {NAMES.dlq} to {enough}" in problem.hint
    [of_other] = limits(other={"max.message.bytes": "3000000"}).problems
    assert OTHER in of_other.text


def test_what_the_broker_does_not_tell_is_no_problem() -> None:
    assert limits_of({}, NAMES, [OTHER]) == TopicLimits(None, [])
    assert limits_of({NAMES.dlq: {}, NAMES.inbound: {"max.message.bytes": "9"}}, NAMES).problems == []
