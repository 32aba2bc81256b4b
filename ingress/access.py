"""Who may open a session: whoever holds its token. The first to open an unclaimed one gets it."""

from dataclasses import dataclass
from uuid import uuid4

from ingress.errors import unauthorized, unavailable
from ingress.facts import Facts
from ingress.fingerprints import Client, Fingerprints
from ingress.middleware import Scope
from ingress.tokens import SessionTokens
from schemas.frames import ErrorCode
from schemas.identity import MINTED_PREFIX
from schemas.inbound import Changes, SessionUpdate
from schemas.replies import SessionUpdated
from store.cached import SessionReads


@dataclass(frozen=True, slots=True)
class Access:
    """The right to one session."""

    session_id: str
    token: str
    fingerprint_hash: str | None
    """Of the client that has it, for the events that it publishes; None while fingerprints are off."""


class SessionAccess:
    """Grants access to sessions."""

    def __init__(
        self,
        tokens: SessionTokens,
        facts: Facts,
        store: SessionReads,
        claim_wait_seconds: float,
        fingerprints: Fingerprints,
    ) -> None:
        self._tokens = tokens
        self._facts = facts
        self._store = store
        self._claim_wait = claim_wait_seconds
        self._fingerprints = fingerprints

    def client(self, scope: Scope) -> Client:
        """Who asks for access over this ASGI connection."""
        return self._fingerprints.client(scope)

    async def grant(self, session_id: str | None, token: str | None, client: Client) -> Access:
        """Access by a token, to a new session, or to one that nobody claimed yet.

        An id that another system chose (it may have published to the session before) is claimed by an event on the
        inbound topic, so that of two who ask at once the partition's order decides.

        Raises:
            IngressError: token missing, invalid, expired or of another session; or the claim was not answered.
            SecurityError: as `check`.
            StoreUnavailable: the session can't be read.
        """
        if token is not None:
            return await self.check(session_id, token, client)
        if session_id is None:
            return self._granted(f"{MINTED_PREFIX}{uuid4()}", client)
        session = None if session_id.startswith(MINTED_PREFIX) else await self._store.get(session_id)
        if session_id.startswith(MINTED_PREFIX) or (session is not None and session.claimed):
            raise unauthorized(ErrorCode.TOKEN_REQUIRED, "This session has a token; send it.")
        await self._claim(session_id, self._fingerprints.of(session_id, client))
        return self._granted(session_id, client)

    async def check(self, session_id: str | None, token: str, client: Client) -> Access:
        """Access by a token. An old one is replaced by one that lasts longer.

        Raises:
            IngressError: the token is invalid, expired or of another session.
            SecurityError: fingerprints are strict, and `client` is not the one that the session began with.
            StoreUnavailable: the session can't be read.
        """
        owner = self._tokens.verify(token)
        if session_id is not None and session_id != owner:
            raise unauthorized(ErrorCode.TOKEN_INVALID, "The token belongs to another session.")
        await self._fingerprints.verify(owner, client)
        return self._granted(owner, client)

    def _granted(self, session_id: str, client: Client) -> Access:
        return Access(session_id, self._tokens.issue(session_id), self._fingerprints.of(session_id, client))

    async def _claim(self, session_id: str, fingerprint_hash: str | None) -> None:
        changes = Changes(claimed=True, fingerprint_hash=fingerprint_hash)
        claim = SessionUpdate(id=f"claim-{uuid4()}", session_id=session_id, changes=changes)
        fact = await self._facts.request(claim, self._claim_wait)
        if fact is None:
            raise unavailable("The session can't be opened at the moment.")
        if not (isinstance(fact, SessionUpdated) and fact.changes.claimed):
            raise unauthorized(ErrorCode.TOKEN_REQUIRED, "This session has a token; send it.")
