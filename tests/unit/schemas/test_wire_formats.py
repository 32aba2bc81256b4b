"""Reply events, deltas, headers and topic names on the wire."""

from uuid import uuid5

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.deltas import Delta, decode_delta, encode_delta
from schemas.headers import cloud_event_headers, header
from schemas.identity import TURN_NAMESPACE, is_session_id, turn_id
from schemas.replies import ReplyEvent, decode_reply, encode_reply
from schemas.topics import TopicNames, topic_specs
from tests.unit.schemas.events import answered, conversations


@given(conversations(max_events=6))
def test_reply_events_survive_the_way_there_and_back(events: list[ReplyEvent]) -> None:
    for event in events:
        data = encode_reply(event)
        assert decode_reply(data) == event
        assert encode_reply(decode_reply(data)) == data


def test_readers_of_reply_events_ignore_fields_they_do_not_know_at_any_depth() -> None:
    event = answered(1)
    body = orjson.loads(encode_reply(event))
    body["mood"] = body["source"]["mood"] = body["reply"]["mood"] = body["message"]["mood"] = {"a": [1]}
    assert decode_reply(orjson.dumps(body)) == event


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"type": "turn.imagined"}', b'{"type": "turn.completed"}'])
def test_what_is_no_reply_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationError):
        decode_reply(data)


def test_deltas_survive_the_way_there_and_back() -> None:
    delta = Delta(session_id="s1", inbound_id="m1", n=3, text="Of course, é")
    assert decode_delta(encode_delta(delta)) == delta


@given(st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True), st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_turn_id_is_the_uuid5_of_session_and_inbound_id(session_id: str, inbound_id: str) -> None:
    """D: whoever computes it, however often, it is the same."""
    assert turn_id(session_id, inbound_id) == str(uuid5(TURN_NAMESPACE, f"{session_id}\n{inbound_id}"))


def test_turn_ids_of_different_sessions_differ() -> None:
    """X: a session id can't hold the separator, so no two pairs give the same text."""
    assert turn_id("a", "b") != turn_id("b", "a")
    assert not is_session_id("a\nb")


def test_our_records_carry_cloud_events_headers_in_binary_mode() -> None:
    headers = cloud_event_headers("id-1", "supportstream.message.v1", "/ingress", "2026-01-02T03:04:05Z")
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"id-1",
        "ce_type": b"supportstream.message.v1",
        "ce_source": b"/ingress",
        "ce_time": b"2026-01-02T03:04:05Z",
        "content-type": b"application/json",
    }


def test_of_repeated_headers_the_last_counts() -> None:
    assert header([("a", b"1"), ("b", b"2"), ("a", b"3")], "a") == b"3"
    assert header([], "a") is None


def test_topics_have_their_names_under_one_prefix() -> None:
    names = TopicNames("shop.")
    assert [names.inbound, names.replies, names.deltas, names.knowledge, names.dlq] == [
        *("shop.inbound.v1", "shop.replies.v1", "shop.deltas.v1", "shop.knowledge.v1", "shop.dlq.v1")
    ]


def test_a_session_has_one_home_in_inbound_replies_and_deltas() -> None:
    """O: equal partition counts, whatever they are."""
    names = TopicNames()
    partitions = {spec.name: spec.partitions for spec in topic_specs(names, 24)}
    assert partitions[names.inbound] == partitions[names.replies] == partitions[names.deltas] == 24


def test_replies_are_kept_forever_and_never_compacted() -> None:
    """R: the reply topic is the changelog; compaction would leave gaps in seq."""
    names = TopicNames()
    configs = {spec.name: spec.configs for spec in topic_specs(names, 12)}
    assert configs[names.replies]["retention.ms"] == "-1"
    compacted = {name for name, config in configs.items() if config["cleanup.policy"] == "compact"}
    assert compacted == {names.knowledge, names.snapshots, names.keys}


def test_a_dead_letter_has_room_for_the_largest_record_and_its_reason() -> None:
    names = TopicNames()
    largest = {spec.name: int(spec.configs.get("max.message.bytes", "1048588")) for spec in topic_specs(names, 12)}
    assert largest[names.dlq] >= largest[names.inbound] + 4_096
