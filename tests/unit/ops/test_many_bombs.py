"""FAILS on main: the limit is per batch, not per fetch."""

import gzip
import subprocess
import sys
import time

from ops.kafka.codecs import unpack
from tests.unit.ops.batches import ZSTD, batch, of_size


def test_many_batches_that_each_stay_within_the_limit_take_bounded_memory(tmp_path):
    """P: a fetch of 1 MB (max_partition_fetch_bytes) of small bombs."""
    one_mib = 1024 * 1024
    single = batch(of_size(30 * one_mib), codec=ZSTD)
    fetched = b"".join(batch(of_size(30 * one_mib), offset=n, codec=ZSTD) for n in range(30))
    print(len(single), len(fetched))
    f = tmp_path / "f"
    f.write_bytes(fetched)
    code = """
import resource, sys
from ops.kafka.fetch_screen import FetchScreen
s = FetchScreen(); data = open(sys.argv[1], 'rb').read()
b = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
s.passed('t', 0, 0, data)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - b))
"""
    out = subprocess.run([sys.executable, "-c", code, str(f)], capture_output=True, text=True, check=True)
    taken = int(out.stdout)
    assert taken < 4 * 32 * one_mib, f"{len(fetched)} fetched bytes took {taken / one_mib:.0f} MiB"


def test_a_gzip_stream_of_many_members_is_unpacked_in_linear_time():
    packed = gzip.compress(b"", 1, mtime=0) * 50_000  # 1 MB
    began = time.monotonic()
    unpack(1, packed, 1_000_000)
    small = time.monotonic()
    unpack(1, packed[: 20 * 5_000], 1_000_000)
    assert (small - began) < 30 * (time.monotonic() - small), f"{small - began:.2f} s for 1 MB"
