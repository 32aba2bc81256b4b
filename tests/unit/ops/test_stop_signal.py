"""What ends a process: a signal, or an error that only a person can put right."""

import pytest

from ops.errors import OpsError
from ops.processes.serving import StopSignal


async def test_callbacks_run_once_also_those_that_come_after_the_signal() -> None:
    """A signal that came while the process started must end its server, too."""
    stop, called = StopSignal(), list[str]()
    stop.then(lambda: called.append("before"))
    assert called == []
    stop.set()
    stop.set()
    stop.then(lambda: called.append("after"))
    assert called == ["before", "after"]
    await stop.wait()


async def test_a_failure_stops_and_is_raised_in_the_end() -> None:
    stop = StopSignal()
    stop.raise_failure()
    stop.fail(OpsError("first"))
    stop.fail(OpsError("second"))
    await stop.wait()
    with pytest.raises(OpsError, match="first"):
        stop.raise_failure()
