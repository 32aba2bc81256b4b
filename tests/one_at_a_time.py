"""Which tests of a run may overlap when several processes run it (`pytest -n`).

A test marked `alone` needs the machine for itself: it measures time or memory, or opens thousands of sockets. It holds
the run's lock for itself; every other test shares it.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tests.shared_servers import run_directory


@contextmanager
def machine(*, alone: bool) -> Iterator[None]:
    """Waits until the test may run, and keeps those that must not run beside it waiting."""
    with (run_directory() / "machine.lock").open("a") as lock:
        # Closing the file releases the lock, also when the process dies.
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
