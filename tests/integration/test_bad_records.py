"""Bad records on the inbound topic become dead letters with a reason, and the next good one is answered."""

import asyncio
import subprocess

import httpx
import orjson
import pytest
from aiokafka import ConsumerRecord

from schemas.partition import home_partition
from tests.customers import ANSWER_WITHIN_S, message_id
from tests.polling import eventually
from tests.processes import Pipeline, Process
from tests.topic_records import producer, read_topic, session_on

PARTITIONS = 12

BadRecord = tuple[bytes | None, bytes | None]
BAD_RECORDS: dict[str, tuple[str, BadRecord]] = {
    "a null value": ("no_value", (b"{session}", None)),
    "no JSON": ("bad_json", (b"{session}", b"hello")),
    "half of a JSON object": ("bad_json", (b"{session}", b'{"text": "hel')),
    "JSON that is no object": ("bad_json", (b"{session}", b'["text"]')),
    "bytes that are no UTF-8": ("bad_json", (b"{session}", b'{"text": "\xff"}')),
    "an unknown type": ("unknown_type", (b"{session}", b'{"type": "dance", "text": "hello"}')),
    "a type that is no text": ("unknown_type", (b"{session}", b'{"type": 7, "text": "hello"}')),
    "an empty text": ("invalid_field", (b"{session}", b'{"text": ""}')),
    "an oversize text": ("invalid_field", (b"{session}", b'{"text": "' + b"x" * 8_001 + b'"}')),
    "no text": ("invalid_field", (b"{session}", b"{}")),
    "an oversize metadata": (
        "invalid_field",
        (b"{session}", b'{"text": "a", "metadata": {"a": "' + b"x" * 4_100 + b'"}}'),
    ),
    "neither key nor session": ("no_session", (None, b'{"text": "hello"}')),
    "neither key nor value": ("no_value", (None, b"")),
    "a session that disagrees with the key": ("key_mismatch", (b"{session}", b'{"text": "a", "session_id": "b"}')),
    "a key that breaks the rule": ("bad_session_id", (b"no spaces", b'{"text": "hello"}')),
    "a session that breaks the rule": ("bad_session_id", (None, b'{"text": "hello", "session_id": "no spaces"}')),
    "a session that is no text": ("bad_session_id", (None, b'{"text": "hello", "session_id": 7}')),
    "a key that is no UTF-8": ("bad_session_id", (b"\xff\xfe", b'{"text": "hello"}')),
    "a very long key": ("bad_session_id", (b"k" * 129, b'{"text": "hello"}')),
    "deep nesting": ("bad_json", (b"{session}", b'{"text": ' + b"[" * 5_000 + b"]" * 5_000 + b"}")),
}


async def dead_letter(pipeline: Pipeline, topic: str, partition: int, offset: int) -> ConsumerRecord:
    async def find() -> ConsumerRecord | None:
        for record in await read_topic(pipeline.bootstrap_servers, pipeline.topics.dlq):
            headers = dict(record.headers)
            place = headers["dlq.topic"].decode(), int(headers["dlq.partition"]), int(headers["dlq.offset"])
            if place == (topic, partition, offset):
                return record
        return None

    found = await eventually(find, f"the dead letter of {topic}:{partition}:{offset}")
    assert found is not None
    return found


@pytest.mark.parametrize("case", BAD_RECORDS)
async def test_a_bad_record_is_a_dead_letter_and_the_next_good_one_answered(
    quick_pipeline: Pipeline, quick_ingress: Process, case: str
) -> None:
    reason, (key, value) = BAD_RECORDS[case]
    session_id = session_on(range(PARTITIONS))
    partition = home_partition(session_id, PARTITIONS)
    key = session_id.encode() if key == b"{session}" else key
    headers = [("origin", b"crm"), ("binary", b"\xff\x00")]
    inbound = quick_pipeline.topics.inbound
    async with producer(quick_pipeline.bootstrap_servers) as client:
        if key is None and not value:
            # A plain producer sends no such record; kcat and others do.
            await asyncio.to_thread(publish_nothing, quick_pipeline, partition)
            records = await read_topic(quick_pipeline.bootstrap_servers, inbound)
            bad_offset = max(record.offset for record in records if record.partition == partition)
            headers = []
        else:
            bad_offset = (await client.send_and_wait(inbound, value, key, partition, headers=headers)).offset
        good = orjson.dumps({"text": "And now?", "id": message_id(), "session_id": session_id})
        await client.send_and_wait(inbound, good, session_id.encode(), partition)

    letter = await dead_letter(quick_pipeline, inbound, partition, bad_offset)
    assert dict(letter.headers)["dlq.reason"].decode() == reason
    assert letter.key == key
    assert (letter.value or b"") == (value or b"")
    assert list(letter.headers[: len(headers)]) == headers
    assert dict(letter.headers)["dlq.error"]
    assert dict(letter.headers)["dlq.attempts"] == b"1"
    await is_answered(quick_ingress, session_id, failed=key == session_id.encode())


async def is_answered(ingress: Process, session_id: str, *, failed: bool) -> None:
    """The good record after the bad one has its turn, and the bad one, where it named the session, its notice."""
    async with httpx.AsyncClient(base_url=ingress.url, timeout=ANSWER_WITHIN_S) as client:
        again = (await client.post("/api/v1/chat", json={"text": "Last one", "session_id": session_id})).json()
        headers = {"authorization": f"Bearer {again['token']}"}
        turns = (await client.get(f"/api/v1/sessions/{session_id}/turns", headers=headers)).json()["turns"]
        assert [turn["message"]["text"] for turn in turns] == ["And now?", "Last one"]
        # The third is the claim of the session by the request above.
        assert turns[-1]["seq"] == (4 if failed else 3)


def publish_nothing(pipeline: Pipeline, partition: int) -> None:
    subprocess.run(
        [
            "kcat",
            "-P",
            "-b",
            pipeline.bootstrap_servers,
            "-t",
            pipeline.topics.inbound,
            "-p",
            str(partition),
            "-Z",
            "-K:",
        ],
        input=":\n",
        text=True,
        check=True,
        timeout=30,
    )
