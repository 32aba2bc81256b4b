"""Header names that are no UTF-8, which librdkafka lets anybody send, alone and in compressed batches."""

import asyncio

from tests.neighbours.kcat import Codec, Kcat
from tests.neighbours.outcomes import assert_verified, outcomes_of, publish, questions
from tests.processes import Pipeline

LATIN_1 = b"caf\xe9"


async def test_records_with_header_names_that_are_no_utf8_are_answered_like_any_other(
    pipeline: Pipeline, kcat: Kcat
) -> None:
    """L, P: beside plain records of every partition, before and after."""
    first, last = questions("first", each=2), questions("last", each=2)
    codecs: list[Codec | None] = [None, "gzip", "snappy", "lz4", "zstd"]
    strange = [questions(f"strange-{codec}", [number], each=8) for number, codec in enumerate(codecs)]
    await publish(pipeline, first)
    for number, (codec, asked) in enumerate(zip(codecs, strange, strict=True)):
        pairs = [(each.session_id, each.value) for each in asked]
        inbound = pipeline.topics.inbound
        await asyncio.to_thread(kcat.send, inbound, pairs, codec=codec, partition=number, header_name=LATIN_1)
    await publish(pipeline, last)
    pipeline.worker()
    answerable = [each.id for each in (*first, *last, *(each for asked in strange for each in asked))]
    async with outcomes_of(pipeline) as outcomes:
        await outcomes.answers(answerable)
        assert not outcomes.letters
    assert (await assert_verified(pipeline))["answered"] == len(answerable)
