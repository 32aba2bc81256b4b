"""What a topic record must be to become an event, and the reason when it can't."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidRecord
from schemas.inbound import (
    MAX_METADATA_BYTES,
    MAX_TEXT_CHARACTERS,
    Cancel,
    Feedback,
    InboundEvent,
    Message,
    OperatorMessage,
    SessionDelete,
    SessionUpdate,
    decode_inbound,
    encode_inbound,
)


def decode(value: bytes | None, key: bytes | None = b"s1") -> InboundEvent:
    return decode_inbound(value, key, "support.inbound.v1", 7, 42)


def decode_body(body: object, key: bytes | None = b"s1") -> InboundEvent:
    return decode(orjson.dumps(body), key)


def refused(value: bytes | None, key: bytes | None = b"s1") -> InvalidRecord:
    with pytest.raises(InvalidRecord) as raised:
        decode(value, key)
    return raised.value


def message(**fields: Any) -> bytes:
    return orjson.dumps({"text": "Hello", **fields})


def test_the_least_that_another_system_sends_is_a_key_and_a_text() -> None:
    event = decode(b'{"text": "How do I reset my password?"}')
    assert event == Message(id="support.inbound.v1:7:42", session_id="s1", text="How do I reset my password?")


def test_a_null_key_is_fine_when_the_body_names_the_session() -> None:
    assert decode(message(session_id="s2"), None).session_id == "s2"
    assert decode(message(session_id="s2"), b"").session_id == "s2"


def test_key_and_body_may_both_name_the_session_when_they_agree() -> None:
    assert decode(message(session_id="s1"), b"s1").session_id == "s1"


def test_a_given_id_is_kept_and_an_absent_or_null_one_is_derived_from_the_place() -> None:
    assert decode(message(id="order-7")).id == "order-7"
    assert decode(message(id=None)).id == "support.inbound.v1:7:42"
    assert decode(message()).id == decode(message()).id


def test_a_derived_id_keeps_the_rule_for_ids_however_long_the_topic_is() -> None:
    event = decode_inbound(message(), b"s1", "t" * 249, 11, 2**62)
    assert len(event.id) == 128
    assert event.id.endswith(f":11:{2**62}")


def test_readers_ignore_fields_they_do_not_know() -> None:
    assert decode(message(id="m1", sentiment="sour", nested={"a": [1]})) == decode(message(id="m1"))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"type": "message", "text": "x"}, Message),
        ({"type": "session.update", "changes": {"user_id": "u"}}, SessionUpdate),
        ({"type": "session.delete"}, SessionDelete),
        ({"type": "cancel", "target": "m1"}, Cancel),
        ({"type": "feedback", "seq": 1, "score": -1}, Feedback),
        ({"type": "operator.message", "text": "x", "operator": "ann"}, OperatorMessage),
    ],
)
def test_every_type_becomes_its_event_and_survives_the_way_there_and_back(
    body: dict[str, Any], kind: type[InboundEvent]
) -> None:
    event = decode_body(body)
    assert type(event) is kind
    assert decode(encode_inbound(event)) == event


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, b"s1", "no_value"),
        (b"", b"s1", "bad_json"),
        (b"{", b"s1", "bad_json"),
        (b"\xff\xfe", b"s1", "bad_json"),
        (b"[]", b"s1", "bad_json"),
        (b'"text"', b"s1", "bad_json"),
        (b"null", b"s1", "bad_json"),
        (b'{"text": NaN}', b"s1", "bad_json"),
        (b'{"text": "\\ud800"}', b"s1", "bad_json"),
        (message(type="mesage"), b"s1", "unknown_type"),
        (message(type=None), b"s1", "unknown_type"),
        (message(type=["message"]), b"s1", "unknown_type"),
        (message(), None, "no_session"),
        (message(), b"", "no_session"),
        (message(session_id=None), None, "no_session"),
        (message(), b"\xff", "bad_session_id"),
        (message(), b"has space", "bad_session_id"),
        (message(), b"newline\n", "bad_session_id"),
        (message(), "kéy".encode(), "bad_session_id"),
        (message(), b"k" * 129, "bad_session_id"),
        (message(session_id=""), None, "bad_session_id"),
        (message(session_id=7), None, "bad_session_id"),
        (message(session_id="a/b"), None, "bad_session_id"),
        (message(session_id="s2"), b"s1", "key_mismatch"),
        (message(session_id="S1"), b"s1", "key_mismatch"),
        (message(id=""), b"s1", "invalid_field"),
        (message(id=7), b"s1", "invalid_field"),
        (message(id="i" * 129), b"s1", "invalid_field"),
        (b"{}", b"s1", "invalid_field"),
        (message(text=""), b"s1", "invalid_field"),
        (message(text=" \n\t"), b"s1", "invalid_field"),
        (message(text=7), b"s1", "invalid_field"),
        (message(text=None), b"s1", "invalid_field"),
        (message(text="x" * (MAX_TEXT_CHARACTERS + 1)), b"s1", "invalid_field"),
        (message(user_id="u" * 129), b"s1", "invalid_field"),
        (message(sent_at="yesterday"), b"s1", "invalid_field"),
        (message(metadata={"a": {"b": 1}}), b"s1", "invalid_field"),
        (message(metadata={"a": [1]}), b"s1", "invalid_field"),
        (message(metadata=[]), b"s1", "invalid_field"),
        (message(metadata={"a": "x" * MAX_METADATA_BYTES}), b"s1", "invalid_field"),
        (message(attachments=[{"name": "x", "url": "http://a"}]), b"s1", "invalid_field"),
        (message(attachments=[{"name": "x", "url": "https://a"}] * 11), b"s1", "invalid_field"),
        (b'{"type": "cancel"}', b"s1", "invalid_field"),
        (b'{"type": "feedback", "seq": 0, "score": 1}', b"s1", "invalid_field"),
        (b'{"type": "feedback", "seq": 1, "score": 2}', b"s1", "invalid_field"),
        (b'{"type": "session.update"}', b"s1", "invalid_field"),
        (b'{"type": "session.update", "changes": {"metadata": {"a": {}}}}', b"s1", "invalid_field"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_reason(value: bytes | None, key: bytes | None, reason: str) -> None:
    assert refused(value, key).reason == reason


def test_the_largest_allowed_text_and_metadata_are_taken() -> None:
    overhead = len(orjson.dumps({"a": ""}))
    event = decode(message(text="é" * MAX_TEXT_CHARACTERS, metadata={"a": "x" * (MAX_METADATA_BYTES - overhead)}))
    assert isinstance(event, Message)
    assert len(event.text) == MAX_TEXT_CHARACTERS


def test_a_refusal_says_which_field_and_does_not_repeat_what_was_in_it() -> None:
    """X: a dead letter's reason is read by people who may not read the conversation."""
    canary = "CANARY-4711"
    for body in (
        {"text": 7, "user_id": canary * 20},
        {"text": "x", "metadata": {"a": [canary]}},
        {"text": "", canary: 1},
    ):
        detail = refused(orjson.dumps(body)).detail
        assert canary not in detail
        assert detail.split(":")[0].split(".")[0] in ("text", "user_id", "metadata")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = st.sampled_from(
    ["type", "id", "session_id", "text", "user_id", "metadata", "attachments", "sent_at", "changes", "target", "seq"]
)
types = st.sampled_from(
    ["message", "session.update", "session.delete", "cancel", "feedback", "operator.message", "other"]
)


@given(st.none() | st.binary(), st.none() | st.binary())
def test_arbitrary_bytes_never_raise_anything_but_invalid_record(value: bytes | None, key: bytes | None) -> None:
    """L: a record that can't be a turn is a dead letter, never a crash."""
    with suppress(InvalidRecord):
        decode(value, key)


@given(st.dictionaries(fields, json_values), st.none() | types, st.none() | st.just(b"s1"))
def test_arbitrary_json_under_known_names_never_raises_anything_but_invalid_record(
    body: dict[str, object], kind: str | None, key: bytes | None
) -> None:
    if kind is not None:
        body["type"] = kind
    try:
        event = decode(orjson.dumps(body), key)
    except InvalidRecord:
        return
    assert decode(encode_inbound(event), key) == event
