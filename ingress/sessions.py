"""REST: sessions. A change is a command on the inbound topic, and the fact that comes back is its answer; so it takes
effect in the order of everything else about the session."""

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from ingress.access import Access, SessionAccess
from ingress.authorization import opened_by_token
from ingress.errors import IngressError, answer_unreadable, not_found
from ingress.facts import Facts
from ingress.history import arrivals_after
from ingress.representations import entity_tag, shown_session, shown_turn
from ingress.responses import Json
from schemas.errors import NewerSchema
from schemas.fold import evolve
from schemas.frames import ErrorCode
from schemas.inbound import Changes, Metadata, SessionDelete, SessionUpdate, ShortText
from schemas.replies import ReplyEvent, TurnCompleted, TurnFailed
from schemas.session import RECENT_EVENTS, SessionData
from store.cached import SessionReads

Name = Annotated[ShortText, StringConstraints(min_length=1)]


class NewSession(BaseModel):
    """What a session begins with."""

    model_config = ConfigDict(extra="forbid")

    user_id: Name | None = None
    thread_id: Name | None = None
    metadata: Metadata = Field(default_factory=dict)


class SessionPatch(BaseModel):
    """What is absent stays. `metadata` is merged, and a null in it removes its key (RFC 7396)."""

    model_config = ConfigDict(extra="forbid")

    user_id: Name | None = None
    thread_id: Name | None = None
    metadata: Metadata | None = None

    @field_validator("*")
    @classmethod
    def _says_something(cls, value: object) -> object:
        if value is None:
            raise ValueError("can't be null; leave it out to keep what is there")
        return value


def sessions_router(
    prefix: str, access: SessionAccess, facts: Facts, store: SessionReads, wait_seconds: float
) -> APIRouter:
    """The routes under `prefix`. A command's fact is waited for `wait_seconds`; then it is 202 and where to look."""
    router = APIRouter(prefix=prefix)
    Opened = Annotated[Access, Depends(opened_by_token(access))]  # noqa: N806  # a type

    @router.post("/sessions")
    async def create(request: Request, given: NewSession | None = None) -> Response:
        """Begins a session: 201 with it and with its token."""
        given = given or NewSession()
        granted = await access.grant(None, None, access.client(request.scope))
        changes = Changes(
            user_id=given.user_id,
            thread_id=given.thread_id,
            metadata=given.metadata or None,
            fingerprint_hash=granted.fingerprint_hash,
        )
        command = SessionUpdate(id=f"create-{uuid4()}", session_id=granted.session_id, changes=changes)
        fact = await fact_of(command)
        body = {"session_id": granted.session_id, "token": granted.token}
        if fact is None:
            return accepted(body)
        session = evolve(None, fact)
        headers = {"Location": location(granted.session_id), "ETag": entity_tag(session)}
        return Json({**body, "session": shown_session(session)}, 201, headers=headers)

    @router.get("/sessions/{session_id}")
    async def show(opened: Opened) -> Response:
        return _shown(await store.get(opened.session_id))

    @router.patch("/sessions/{session_id}")
    async def change(opened: Opened, patch: SessionPatch) -> Response:
        """Changes the session, or begins it if there is none, as a message does: 200 with it as it is then."""
        changes = Changes(user_id=patch.user_id, thread_id=patch.thread_id, metadata=patch.metadata)
        command = SessionUpdate(id=f"update-{uuid4()}", session_id=opened.session_id, changes=changes)
        fact = await fact_of(command)
        if fact is None:
            return accepted({"session_id": opened.session_id})
        return _shown(await store.get(opened.session_id))

    @router.delete("/sessions/{session_id}")
    async def delete(opened: Opened) -> Response:
        """Forgets the session with its turns: 204. What is accepted later begins it anew."""
        command = SessionDelete(id=f"delete-{uuid4()}", session_id=opened.session_id)
        fact = await fact_of(command)
        if fact is None:
            return accepted({"session_id": opened.session_id})
        if fact.seq == 1:
            # The first event of an epoch: nothing was there. Nobody else knows, a message may have been on its way.
            raise _nothing_there()
        return Response(status_code=204)

    @router.get("/sessions/{session_id}/turns")
    async def turns(
        opened: Opened,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=RECENT_EVENTS)] = RECENT_EVENTS,
    ) -> Response:
        """The turns that follow seq `after`, oldest first, as far back as they are kept. `next` is the `after` of the
        next page; null: there is none. 502 when one of them was written by a newer version of this program."""
        arrivals = await arrivals_after(store, opened.session_id, after)
        try:
            events = [arrival.event() for arrival in arrivals]
        except NewerSchema as error:
            raise answer_unreadable() from error
        found = [event for event in events if isinstance(event, TurnCompleted)]
        page = found[:limit]
        return Json(
            {
                "session_id": opened.session_id,
                "turns": [shown_turn(turn) for turn in page],
                "next": page[-1].seq if len(found) > limit else None,
            }
        )

    async def fact_of(command: SessionUpdate | SessionDelete) -> ReplyEvent | None:
        """What came of `command`; None: nothing yet, but Kafka has it.

        Raises:
            IngressError: it can't take effect, or Kafka does not take it.
        """
        fact = await facts.request(command, wait_seconds)
        if isinstance(fact, TurnFailed):
            reason = fact.code.replace("_", " ")
            raise IngressError(422, ErrorCode.TURN_FAILED, f"The session stays as it was: {reason}.")
        return fact

    def location(session_id: str) -> str:
        return f"{prefix}/sessions/{session_id}"

    def accepted(body: dict[str, Any]) -> Response:
        """Kafka has the command, so it will be decided."""
        where = location(body["session_id"])
        return Json({**body, "status": "accepted", "location": where}, 202, headers={"Location": where})

    return router


def _shown(session: SessionData | None) -> Response:
    if session is None:
        raise _nothing_there()
    return Json(shown_session(session), headers={"ETag": entity_tag(session)})


def _nothing_there() -> IngressError:
    return not_found("There is no such session: it has not begun, was deleted, or has expired.")
