"""How the tests of a run are shared out to its processes (`pytest --numprocesses`).

Tests that use the same pipeline, browser or cluster run in one process, one after the other, so that it is started
once. All others may run anywhere. Long tests come first, so that the run does not end with one of them; those that need
the machine for themselves come last.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.shared_servers import run_directory

TESTS = Path(__file__).parent
SHARED_PIPELINES = ("paced_shop", "shop", "quick_pipeline")
"""Fixtures that tests of several files use."""
LONG_FIRST = ("chaos", "neighbours", "integration/test_whatif_command.py", "integration", "browser", "contract", "unit")
"""Folders and files, by how long their tests take."""


def share_out(items: list[pytest.Item]) -> None:
    """In a process that runs a share: sorts the tests, and tells the first process the group of each."""
    items.sort(key=lambda item: (needs_the_machine(item), place_of(item)))
    own = groups_file().with_suffix(f".{os.getpid()}")
    own.write_bytes(orjson.dumps({item.nodeid: group_of(item) for item in items}))
    # All processes write the same. A reader sees all of it or nothing.
    own.replace(groups_file())


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Gives the tests of a group to one process, the groups in the order of their first tests."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._groups: dict[str, str] = {}

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        self._groups = orjson.loads(groups_file().read_bytes())
        super().add_node_collection(node, collection)

    def _split_scope(self, nodeid: str) -> str:
        return self._groups[nodeid]


def groups_file() -> Path:
    return run_directory() / "groups.json"


def group_of(item: pytest.Item) -> str:
    """The tests of a group run in one process."""
    if needs_the_machine(item):
        return "alone"
    for shared in SHARED_PIPELINES:
        if shared in fixtures_of(item):
            return shared
    # One browser is enough, and faults side by side would be more than one fault.
    for folder in ("browser", "chaos"):
        if file_of(item).startswith(f"{folder}/"):
            return folder
    return file_of(item)


def place_of(item: pytest.Item) -> int:
    """In the order of the groups."""
    return next(place for place, begins in enumerate(LONG_FIRST) if file_of(item).startswith(begins))


def needs_the_machine(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def fixtures_of(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


def file_of(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).as_posix()
