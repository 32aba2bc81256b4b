"""Batches that are small on the wire and huge in memory: refused as a whole, at no cost for anything beside them."""

import asyncio
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord

from tests.neighbours.java_producer import Batch, JavaProducer, Outgoing
from tests.neighbours.outcomes import (
    assert_verified,
    group_members,
    headers_of,
    health_says,
    outcomes_of,
    publish,
    questions,
)
from tests.processes import Pipeline, Process

MEGABYTE = 1_000_000
BOMB = 400 * MEGABYTE
MAY_GROW_BY_KIB = 250 * 1024


def peak_kib(process: Process) -> int:
    """The most resident memory that the process ever had."""
    status = Path(f"/proc/{process.server.pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


@pytest.mark.alone
async def test_bombs_are_refused_without_their_value_while_the_worker_stays_small_and_in_its_group(
    pipeline: Pipeline, java: JavaProducer
) -> None:
    """L, P, C: one of gzip, one of zstd, three in one partition, and one of many records that are small themselves."""
    worker = pipeline.worker()
    await asyncio.to_thread(pipeline.ready)
    before, members = peak_kib(worker), await group_members(pipeline)
    assert len(members) == 1
    first, last = questions("first"), questions("last")
    await publish(pipeline, first)

    bombs = [("gzip", questions("gzip", [1])), ("zstd", questions("zstd", [2]))]
    bombs += [("zstd", questions(f"zstd-{n}", [3])) for n in range(3)]
    offsets = [
        (bomb.partition, *await send(java, pipeline, codec, [bomb.outgoing(padding=BOMB)])) for codec, [bomb] in bombs
    ]
    many = [each.outgoing(padding=MEGABYTE) for each in questions("many", [4], each=100)]
    many_offsets = await send(java, pipeline, "zstd", many, batch_size=str(BOMB))
    await publish(pipeline, last)

    async with outcomes_of(pipeline) as outcomes:
        await outcomes.answers([each.id for each in (*first, *last)], within_s=60)
        for partition, offset in offsets:
            assert_refused(await outcomes.letter(partition, offset), offset, offset)
        assert_refused(await outcomes.letter(4, many_offsets[0]), many_offsets[0], many_offsets[-1])
        assert len(outcomes.letters) == len(bombs) + 1
    grown = peak_kib(worker) - before
    assert grown < MAY_GROW_BY_KIB, f"the worker's peak grew by {grown} KiB"
    assert await group_members(pipeline) == members, "the worker was expelled from its group"
    assert (await health_says(worker, "/health/ready"))[0] == 200
    await assert_verified(pipeline)


async def send(
    java: JavaProducer, pipeline: Pipeline, codec: str, records: list[Outgoing], **settings: str
) -> list[int]:
    batch = Batch(records)
    return await asyncio.to_thread(java.send, pipeline.topics.inbound, [batch], compression_type=codec, **settings)


def assert_refused(letter: ConsumerRecord, first: int, last: int) -> None:
    headers = headers_of(letter)
    assert not letter.value
    assert headers["dlq.reason"] == "too_large_unpacked"
    assert int(headers["dlq.offset"]) == first
    # A letter for one record has no last offset of its own.
    assert int(headers.get("dlq.last_offset", headers["dlq.offset"])) == last
    assert int(headers["dlq.size"]) > 0
    assert len(headers["dlq.digest"]) == 64
