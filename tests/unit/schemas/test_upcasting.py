"""Reply events of every version that was released rebuild the same sessions for ever."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.errors import NewerSchema
from schemas.fold import evolve
from schemas.inbound import Changes
from schemas.replies import decode_reply
from schemas.session import SessionData
from schemas.upcasting import current_version, upcast

CORPUS = Path(__file__).parents[2] / "corpus"
RELEASED = sorted(CORPUS.glob("replies-*.jsonl"))


@pytest.mark.parametrize("recorded", RELEASED, ids=lambda path: path.stem)
def test_what_an_earlier_version_recorded_rebuilds_to_the_same_state(recorded: Path) -> None:
    sessions: dict[str, SessionData] = {}
    for line in recorded.read_bytes().splitlines():
        event = decode_reply(line)
        sessions[event.session_id] = evolve(sessions.get(event.session_id), event)
    states = orjson.loads(recorded.with_name(f"{recorded.stem}.states.json").read_bytes())
    assert {session_id: session.to_json() for session_id, session in sessions.items()} == {
        session_id: SessionData.from_dict(state).to_json() for session_id, state in states.items()
    }


def test_every_version_is_in_the_corpus() -> None:
    versions = {int(path.stem.partition("-")[2]) for path in RELEASED}
    assert versions == set(range(1, current_version() + 1))


def test_the_corpus_has_every_type_of_event_and_field() -> None:
    events = [orjson.loads(line) for path in RELEASED for line in path.read_bytes().splitlines()]
    assert {event["type"] for event in events} == {
        "turn.completed",
        "turn.failed",
        "session.updated",
        "session.deleted",
    }
    changed = {name for event in events for name, value in (event.get("changes") or {}).items() if value is not None}
    assert changed == {each.name for each in fields(Changes)}


def from_1(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "words": fields["text"].split()}


def from_2(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "count": len(fields["words"])}


def test_an_event_is_taken_up_version_by_version() -> None:
    upcasters = {1: from_1, 2: from_2}
    expected = {"text": "a b", "words": ["a", "b"], "count": 2, "schema_version": 3}
    assert orjson.loads(upcast(b'{"text":"a b"}', upcasters)) == expected
    second = b'{"text":"a b","words":["a","b"],"schema_version":2}'
    assert orjson.loads(upcast(second, upcasters)) == expected
    third = orjson.dumps(expected)
    assert upcast(third, upcasters) is third


def test_the_present_version_is_read_as_it_is() -> None:
    value = b'{"type":"turn.completed"}'
    assert upcast(value, {}) is value
    for nonsense in (b"", b"{", b"[]", b'"schema_version":'):
        assert upcast(nonsense, {1: from_1}) is nonsense


@pytest.mark.parametrize("version", [b"99", b'"two"', b"null"])
def test_an_event_of_a_later_version_is_refused_not_misread(version: bytes) -> None:
    value = b'{"type":"session.deleted","schema_version":' + version + b"}"
    with pytest.raises(NewerSchema, match="upgrade"):
        decode_reply(value)
