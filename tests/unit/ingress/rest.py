"""The ingress over HTTP, in a test's own process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from ingress.app import IngressParts, create_app
from ingress.edge import Edge
from ingress.origins import OriginPolicy
from ingress.socket import SocketParts, SocketSettings
from tests.unit.ingress.fakes import ALICE, WAIT_SECONDS, Pipeline


class NobodyWatches:
    def socket_opened(self) -> None: ...

    def socket_closed(self, code: int) -> None: ...

    def frame_refused(self, code: str) -> None: ...


async def fine() -> None:
    return None


@asynccontextmanager
async def client_of(
    pipeline: Pipeline,
    *,
    debug: bool = False,
    allowed: frozenset[str] = frozenset(),
    broken: Exception | None = None,
    address: str = ALICE.address,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client at `address`. The check of Kafka and `/` raise `broken`, if it is given."""

    async def check() -> None:
        if broken:
            raise broken

    async def describe() -> dict[str, object]:
        if broken:
            raise broken
        return {"name": "supportstream"}

    edge = Edge(
        SocketParts(
            pipeline.access,
            pipeline.inbound,
            pipeline.delivery,
            pipeline.store,
            NobodyWatches(),
            SocketSettings(),
        ),
        OriginPolicy(allowed),
    )
    parts = IngressParts(
        edge=edge,
        access=pipeline.access,
        facts=pipeline.facts,
        store=pipeline.store,
        origins=OriginPolicy(allowed),
        ready={"kafka": check},
        live={"loop": fine},
        describe=describe,
        metrics=lambda: (b"up 1\n", "text/plain"),
        fact_wait_seconds=WAIT_SECONDS,
    )
    app: Any = create_app(parts, version="1", api_prefix="/api/v1", debug=debug)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(address, 40_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
