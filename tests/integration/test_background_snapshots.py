"""A worker that writes snapshots in the background."""

import asyncio
from collections.abc import Callable

from schemas.snapshots import decode_coverage, decode_snapshot, is_coverage
from tests.customers import customer
from tests.polling import eventually
from tests.processes import Pipeline
from tests.topic_records import read_topic


async def test_a_worker_writes_snapshots_now_and_then(new_pipeline: Callable[..., Pipeline]) -> None:
    settings = {"SNAPSHOT_INTERVAL_SECONDS": "0.5", "SNAPSHOT_RECORDS_PER_SECOND": "10000"}
    with new_pipeline(GENERATOR="null") as pipeline:
        ingress = pipeline.ingress()
        worker = pipeline.worker(**settings)
        await asyncio.to_thread(pipeline.ready)
        async with customer(ingress) as somebody:
            await somebody.ask("Is anybody there?")
            reply = await somebody.ask("And now?")

        async def covered() -> bool:
            records = await read_topic(pipeline.bootstrap_servers, pipeline.topics.snapshots)
            newest = {record.key: record.value for record in records}
            snapshot = newest.get(somebody.session_id.encode())
            marks = [decode_coverage(value) for key, value in newest.items() if is_coverage(key) and value]
            return (
                snapshot is not None
                and decode_snapshot(snapshot).session.seq == reply["seq"]
                and sum(mark.offset for mark in marks) >= reply["seq"]
            )

        await eventually(covered, "the session has a snapshot, and it is covered", 60.0)
        assert await asyncio.to_thread(worker.server.stop, 30.0) == 0
