"""Errors that the tests provoke are logged; what is logged stays out of the report."""

from collections.abc import AsyncIterator, Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.unit.workers.dispatch_rig import Rig


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture(autouse=True)
async def everything_stops() -> AsyncIterator[None]:
    yield
    while Rig.made:
        await Rig.made.pop().dispatcher.stop()
