"""The home partition is the one that Kafka's own producers choose."""

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from schemas.partition import home_partition, murmur2

PUBLISHED = [
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]
"""From org.apache.kafka.common.utils.UtilsTest.testMurmur2, as signed 32-bit numbers."""


@pytest.mark.parametrize(("data", "expected"), PUBLISHED)
def test_murmur2_agrees_with_the_vectors_that_kafka_publishes(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected % 2**32


@given(st.binary(max_size=300))
def test_murmur2_agrees_with_aiokafka_for_every_key(data: bytes) -> None:
    assert murmur2(data) == aiokafka_murmur2(data) % 2**32


@given(st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True), st.integers(1, 500))
def test_the_home_partition_is_where_the_default_partitioner_puts_the_key(session_id: str, partitions: int) -> None:
    everywhere = list(range(partitions))
    assert home_partition(session_id, partitions) == DefaultPartitioner()(session_id.encode(), everywhere, everywhere)
