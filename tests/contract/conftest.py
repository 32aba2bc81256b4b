"""One suite over every backend of the session store."""

from collections.abc import AsyncIterator

import pytest

from store.protocol import SessionStore
from tests.contract.backends import Backend


@pytest.fixture(params=["memory", "redis"])
async def backend(request: pytest.FixtureRequest, redis_prefix: str) -> AsyncIterator[Backend]:
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None
    made = Backend(request.param, redis_prefix, server)
    async with made.stack:
        yield made


@pytest.fixture
def store(backend: Backend) -> SessionStore:
    return backend.store()
