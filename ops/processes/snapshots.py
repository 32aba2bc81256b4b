"""A worker's background task: snapshots of all sessions now and then, as `supportstream replay --snapshot` writes them.

In a process of its own, so that folding never takes the worker's event loop; of all workers by the one that owns the
first partition.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import structlog

from ops.background import in_background
from ops.settings import Settings

log = structlog.get_logger(__name__)

_TERMINATED_WITHIN_SECONDS = 5.0


def snapshot_command(settings: Settings) -> list[str]:
    rate = str(settings.snapshot_records_per_second)
    return [sys.executable, "-m", "ops.cli", "replay", "--snapshot", "--rate", rate]


def snapshots_regularly(
    command: Sequence[str], interval_seconds: float, is_ours: Callable[[], bool]
) -> AbstractAsyncContextManager[None]:
    """Runs `command` every `interval_seconds` while the block runs, each time that `is_ours` says so."""
    return in_background(_run_regularly(command, interval_seconds, is_ours), "snapshots")


async def _run_regularly(command: Sequence[str], interval_seconds: float, is_ours: Callable[[], bool]) -> None:
    while True:
        await asyncio.sleep(interval_seconds)
        if is_ours():
            await _run_once(command)


async def _run_once(command: Sequence[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    except OSError as error:
        log.error("snapshots_not_written", error=str(error))
        return
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _TERMINATED_WITHIN_SECONDS)
            except TimeoutError:
                process.kill()
    if process.returncode:
        # Another replay may be running; the next time will do.
        log.warning("snapshots_not_written", exit_code=process.returncode, error=_last_line(err))
    else:
        log.info("snapshots_written", report=_last_line(out))


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
