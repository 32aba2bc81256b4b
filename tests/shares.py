"""How the tests of a run are shared out to its processes (`pytest -n … --dist loadgroup`).

Tests that use the same pipeline, browser or cluster run in one process, one after the other, so that it is started
once. All others may run anywhere. Long tests come first, so that the run does not end with one of them; those that need
the machine for themselves come last.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SHARED_PIPELINES = ("paced_shop", "shop", "quick_pipeline")
"""Fixtures that tests of several files use."""
LONG_FIRST = ("chaos", "integration", "browser", "contract", "unit")
"""Folders, by how long their tests take."""


def share_out(items: list[pytest.Item]) -> None:
    """Sorts the tests, and puts each into its group."""
    for item in items:
        if group := group_of(item):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (needs_the_machine(item), LONG_FIRST.index(folder_of(item))))


def group_of(item: pytest.Item) -> str | None:
    """The tests of a group run in one process. None: a group of its own."""
    if needs_the_machine(item):
        return "alone"
    for shared in SHARED_PIPELINES:
        if shared in fixtures_of(item):
            return shared
    match folder_of(item):
        case "chaos":
            return None
        case "browser":
            return "browser"
        case _:
            return str(item.path.relative_to(TESTS))


def needs_the_machine(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def fixtures_of(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


def folder_of(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]
