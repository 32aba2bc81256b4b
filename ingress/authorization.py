"""Who sends a REST request, as FastAPI dependencies: its token, and the right to the session in its path."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Request

from ingress.access import Access, SessionAccess
from ingress.errors import unauthorized
from schemas.frames import ErrorCode
from schemas.identity import SessionId


async def _bearer(authorization: Annotated[str | None, Header()] = None) -> str | None:
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthorized(ErrorCode.TOKEN_INVALID, "Send the token as: Authorization: Bearer …")
    return token


Token = Annotated[str | None, Depends(_bearer)]
"""The token that the request brings, not verified yet."""


def opened_by_token(access: SessionAccess) -> Callable[..., Awaitable[Access]]:
    """The dependency that opens the `session_id` of the path; as `SessionAccess.check`, and a token there must be."""

    async def opened(request: Request, session_id: SessionId, token: Token) -> Access:
        if token is None:
            raise unauthorized(ErrorCode.TOKEN_REQUIRED, "Send the session's token: Authorization: Bearer …")
        return await access.check(session_id, token, access.client(request.scope))

    return opened
