"""Session tokens: who holds one may open the session. JSON Web Tokens (RFC 7519), signed by HMAC-SHA-256."""

import time
from collections.abc import Callable

import jwt

from ingress.errors import unauthorized
from schemas.frames import ErrorCode

_ALGORITHM = "HS256"


class SessionTokens:
    """Issues and verifies tokens. All ingress processes share `secret` (at least 32 bytes)."""

    def __init__(self, secret: str, *, ttl_seconds: int, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._ttl = ttl_seconds
        self._clock = clock

    def issue(self, session_id: str) -> str:
        """A token for `session_id`, good for `ttl_seconds` from now."""
        now = int(self._clock())
        return jwt.encode({"sub": session_id, "iat": now, "exp": now + self._ttl}, self._secret, _ALGORITHM)

    def verify(self, token: str) -> str:
        """The session that the token opens.

        Raises:
            IngressError: `token_invalid` or `token_expired`.
        """
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                # Expiry is checked below against our own clock.
                options={"require": ["sub", "exp"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise unauthorized(ErrorCode.TOKEN_INVALID, "The token is not one of ours. Start a new session.") from error
        if claims["exp"] <= self._clock():
            raise unauthorized(ErrorCode.TOKEN_EXPIRED, "The token has expired. Start a new session.")
        session_id: str = claims["sub"]
        return session_id
