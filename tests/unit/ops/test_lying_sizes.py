"""FAILS on main: a record whose key claims 2**30 bytes ends the process (SIGSEGV): decode_varint of aiokafka's C code has no bounds."""

import subprocess
import sys
import textwrap


def test_a_record_that_lies_about_a_size_breaks_its_batch_and_nothing_else():
    code = textwrap.dedent("""
        from ops.kafka.fetch_screen import BrokenBatch, FetchScreen
        from aiokafka.record.util import encode_varint
        from tests.unit.ops.batches import HEADER_BYTES, batch, values, with_header
        body = bytearray(b"\\0\\0\\0")
        encode_varint(2**30, body.append)
        sized = bytearray(); encode_varint(len(body), sized.append)
        raw = batch(*values("a"))[:HEADER_BYTES] + bytes(sized + body)
        screen = FetchScreen(); screen.escapes_names = True
        screen.passed("t", 0, 0, with_header(raw, offset=0, bits=0))
        assert isinstance(screen.notes["t", 0, 0], BrokenBatch)
    """)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, (ended.returncode, ended.stderr[-300:])
