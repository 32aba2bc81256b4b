"""What every HTTP response carries, and how errors look. Plain ASGI: nothing is buffered."""

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import uuid4

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ingress.errors import IngressError
from ingress.responses import Json
from schemas.frames import ErrorCode
from store.errors import StoreUnavailable, WrongKey

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
SendMessage = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, SendMessage], Awaitable[None]]

log = structlog.get_logger(__name__)

SUPPORT = "Quote the request_id to whoever runs this service."
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class ResponseHeaders:
    """X-Request-ID (the client's, if it is a sane one), X-Process-Time in ms, and the security headers."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4())
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                took_ms = (time.perf_counter() - begun) * 1000
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"x-process-time", f"{took_ms:.2f}".encode()),
                    *_SECURITY_HEADERS,
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def install_error_handlers(app: FastAPI, *, debug: bool) -> None:
    """Every error is `{error, message, request_id, support}`; details of unexpected ones only in debug."""

    def respond(request: Request, status: int, error: str, message: str, **headers: str) -> Json:
        body = {"error": error, "message": message, "request_id": request.state.request_id, "support": SUPPORT}
        return Json(body, status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def refused(request: Request, error: Exception) -> Json:
        assert isinstance(error, IngressError)
        retry = {} if error.retry_after_seconds is None else {"retry_after": str(error.retry_after_seconds)}
        return respond(request, error.status, error.code, error.message, **retry)

    async def invalid(request: Request, error: Exception) -> Json:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        return respond(
            request, 422, ErrorCode.INVALID_FIELD, f"{field or 'body'}: {first['msg'].removeprefix('Value error, ')}"
        )

    async def http(request: Request, error: Exception) -> Json:
        assert isinstance(error, HTTPException)
        return respond(request, error.status_code, "http_error", str(error.detail), **(error.headers or {}))

    async def store_away(request: Request, error: Exception) -> Json:
        if isinstance(error, WrongKey):
            # It doesn't pass by itself: whoever set the keys must hear of it.
            log.error("session_unreadable", request_id=request.state.request_id, error=str(error))
        message = "Sessions can't be read at the moment. Send it again."
        return respond(request, 503, ErrorCode.UNAVAILABLE, message, retry_after="2")

    async def unexpected(request: Request, error: Exception) -> Json:
        log.error("request_failed", request_id=request.state.request_id, exc_info=error)
        message = repr(error) if debug else "Something went wrong on our side."
        return respond(request, 500, "internal_error", message)

    app.add_exception_handler(IngressError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(StoreUnavailable, store_away)
    app.add_exception_handler(Exception, unexpected)
