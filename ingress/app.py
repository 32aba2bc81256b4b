"""The ingress as an ASGI application."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse, Response

from ingress.access import SessionAccess
from ingress.chat import chat_router
from ingress.edge import Edge
from ingress.facts import Facts
from ingress.health import Check, health_router
from ingress.middleware import Receive, ResponseHeaders, Scope, SendMessage, install_error_handlers
from ingress.origins import OriginPolicy
from ingress.page import STATIC, PageFiles, page_router
from ingress.responses import Json
from ingress.sessions import sessions_router
from store.cached import SessionReads

SOCKET_PATH = "/ws"


@dataclass(frozen=True, slots=True)
class IngressParts:
    """What the application serves; handed in by the composition root."""

    edge: Edge
    access: SessionAccess
    facts: Facts
    store: SessionReads
    origins: OriginPolicy
    ready: Mapping[str, Check]
    live: Mapping[str, Check]
    describe: Callable[[], Awaitable[dict[str, object]]]
    """What `/` and `/health` tell of this process."""
    metrics: Callable[[], tuple[bytes, str]]
    """Body and content type of `/metrics`."""
    fact_wait_seconds: float
    """How long a change of a session waits for its fact."""


def create_app(
    parts: IngressParts,
    *,
    version: str,
    api_prefix: str,
    debug: bool,
) -> "WithSockets":
    """The application. Interactive documentation is served in debug only."""
    app = FastAPI(
        title="supportstream",
        version=version,
        docs_url="/docs" if debug else None,
        redoc_url=None,
        openapi_url="/openapi.json" if debug else None,
    )
    install_error_handlers(app, debug=debug)
    if parts.origins.allowed:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(parts.origins.allowed),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Process-Time", "Location", "ETag"],
        )
    app.include_router(chat_router(api_prefix, parts.access, parts.facts))
    app.include_router(sessions_router(api_prefix, parts.access, parts.facts, parts.store, parts.fact_wait_seconds))
    app.include_router(health_router(parts.ready, parts.live, parts.describe))
    app.include_router(page_router())
    app.mount("/chat/static", PageFiles(directory=STATIC), name="chat-static")

    @app.get("/")
    async def about() -> Response:
        return Json(await parts.describe())

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        body, content_type = parts.metrics()
        return Response(body, headers={"content-type": content_type})

    @app.get("/chat/", include_in_schema=False)
    async def chat_with_slash() -> RedirectResponse:
        return RedirectResponse("/chat")

    return WithSockets(app, parts.edge)


class WithSockets:
    """The application with its WebSocket path beside it: HTTP goes to FastAPI, sockets straight to the edge."""

    def __init__(self, http: FastAPI, edge: Edge) -> None:
        # Outside of everything, so that an error that nobody foresaw has a request id, too.
        self._http = ResponseHeaders(http)
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        if scope["type"] != "websocket":
            await self._http(scope, receive, send)
        elif scope["path"] == SOCKET_PATH:
            await self._edge(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1000, "reason": "no such path"})
