"""Of the tests that several processes run, one that needs the machine for itself overlaps no other."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.one_at_a_time import machine
from tests.polling import wait_until
from tests.shared_servers import RUN

NOT_SOON_S = 0.2


@pytest.fixture(autouse=True)
def another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lock of its own: the test itself holds that of this run."""
    monkeypatch.setenv(RUN, str(tmp_path))


@contextmanager
def asking(*, alone: bool) -> Iterator[threading.Event]:
    """Another test that asks for the machine. The event: it runs."""
    runs = threading.Event()

    def run() -> None:
        with machine(alone=alone):
            runs.set()

    thread = threading.Thread(target=run)
    thread.start()
    yield runs
    thread.join(timeout=10.0)
    assert runs.is_set(), "it ran in the end"


def test_ordinary_tests_overlap() -> None:
    with machine(alone=False), asking(alone=False) as other:
        wait_until(other.is_set, "the other runs beside it")


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_a_test_alone_waits_for_all_others_and_they_for_it(first: bool, second: bool) -> None:
    with ExitStack() as stack:
        with machine(alone=first):
            other = stack.enter_context(asking(alone=second))
            assert not other.wait(NOT_SOON_S)
        wait_until(other.is_set, "the other runs after it")
