"""Whether whoever holds a session's token looks like the client that the session began with."""

from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from ingress.client_address import TrustedProxies
from ingress.errors import SecurityError
from ingress.middleware import Scope
from schemas.fingerprint import fingerprint
from store.cached import SessionReads

log = structlog.get_logger(__name__)

FingerprintMode = Literal["off", "lenient", "strict"]


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, as far as a fingerprint tells clients apart."""

    address: str
    user_agent: str


UNKNOWN = Client("", "")
"""Everybody, while nobody looks."""


class MismatchObserver(Protocol):
    def fingerprint_mismatch(self, mode: str) -> None: ...


class Fingerprints:
    """`lenient` notes a client that looks otherwise, `strict` refuses it, `off` does nothing at all."""

    def __init__(
        self, mode: FingerprintMode, proxies: TrustedProxies, store: SessionReads, observer: MismatchObserver
    ) -> None:
        self._mode = mode
        self._proxies = proxies
        self._store = store
        self._observer = observer

    def client(self, scope: Scope) -> Client:
        """Who is at the other end of an ASGI connection."""
        if self._mode == "off":
            return UNKNOWN
        peer = (scope.get("client") or ("", 0))[0]
        forwarded_for = _header(scope, b"x-forwarded-for")
        return Client(self._proxies.client_address(peer, forwarded_for), _header(scope, b"user-agent"))

    def of(self, session_id: str, client: Client) -> str | None:
        """What `client`'s events of this session carry; None while fingerprints are off."""
        return None if self._mode == "off" else fingerprint(session_id, client.address, client.user_agent)

    async def verify(self, session_id: str, client: Client) -> None:
        """Returns if `client` may open the session: it looks as at the beginning, or nobody knows how that was.

        Raises:
            SecurityError: strict, and it looks otherwise.
            StoreUnavailable: the session can't be read.
        """
        if self._mode == "off":
            return
        session = await self._store.get(session_id)
        if session is None or session.verify_fingerprint(client.address, client.user_agent):
            return
        self._observer.fingerprint_mismatch(self._mode)
        # Without the address: more people read logs than need to know it.
        log.warning("fingerprint_mismatch", session_id=session_id, mode=self._mode)
        if self._mode == "strict":
            raise SecurityError("This session was begun by another client or from another place. Start a new session.")


def _header(scope: Scope, name: bytes) -> str:
    """All that the header says: one that comes several times is one list (RFC 9110 §5.3)."""
    return b",".join(value for given, value in scope["headers"] if given == name).decode("latin-1")
