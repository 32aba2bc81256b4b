"""REST: a question and its answer in one request, and a look back at a session's turns."""

from dataclasses import asdict
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ingress.access import SessionAccess
from ingress.errors import IngressError, unauthorized
from ingress.facts import Facts
from ingress.history import arrivals_after
from ingress.responses import Json
from schemas.frames import ErrorCode
from schemas.identity import InboundId, SessionId
from schemas.inbound import MAX_ATTACHMENTS, Attachment, Message, Metadata, ShortText, Text
from schemas.replies import ReplyEvent, TurnCompleted, TurnFailed
from store.cached import SessionReads

MAX_WAIT_SECONDS = 60.0


class ChatRequest(BaseModel):
    """A customer's message. `id` makes a repeated request harmless: it gets the same answer."""

    model_config = ConfigDict(extra="forbid")

    text: Text
    session_id: SessionId | None = None
    id: InboundId | None = None
    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)] = 20.0
    """Seconds to wait for the reply before 202."""
    user_id: ShortText | None = None
    metadata: Metadata = Field(default_factory=dict)
    attachments: Annotated[list[Attachment], Field(max_length=MAX_ATTACHMENTS)] = Field(default_factory=list)


def chat_router(prefix: str, access: SessionAccess, facts: Facts, store: SessionReads) -> APIRouter:
    """The routes under `prefix`."""
    router = APIRouter(prefix=prefix)

    @router.post("/chat")
    async def chat(request: ChatRequest, authorization: Annotated[str | None, Header()] = None) -> Response:
        """Publishes the message and waits for its reply: 200 with it, or 202 and where to look for it."""
        granted = await access.grant(request.session_id, _bearer(authorization))
        message = Message(
            id=request.id or str(uuid4()),
            session_id=granted.session_id,
            text=request.text,
            user_id=request.user_id,
            metadata=request.metadata,
            attachments=request.attachments,
        )
        fact = await facts.request(message, request.wait)
        body: dict[str, Any] = {"session_id": granted.session_id, "token": granted.token, "id": message.id}
        location = f"{prefix}/sessions/{granted.session_id}/turns"
        if fact is None:
            return Json({**body, "status": "accepted", "turns": location}, 202, headers={"Location": location})
        if isinstance(fact, TurnFailed):
            raise IngressError(422, ErrorCode.TURN_FAILED, fact.error)
        return Json({**body, "status": "answered", **_shown(fact)})

    @router.get("/sessions/{session_id}/turns")
    async def turns(
        request: Request,
        session_id: SessionId,
        after: Annotated[int, Query(ge=0)] = 0,
        authorization: Annotated[str | None, Header()] = None,
    ) -> Response:
        """The session's newest turns that follow seq `after`, oldest first."""
        token = _bearer(authorization)
        if token is None:
            raise unauthorized(ErrorCode.TOKEN_REQUIRED, "Send the session's token: Authorization: Bearer …")
        access.check(session_id, token)
        arrivals = await arrivals_after(store, session_id, after)
        shown = [_shown(arrival.event) for arrival in arrivals if isinstance(arrival.event, TurnCompleted)]
        return Json({"session_id": session_id, "turns": shown})

    return router


def _shown(fact: ReplyEvent) -> dict[str, Any]:
    """What a client sees of an event."""
    shown: dict[str, Any] = {"seq": fact.seq, "epoch": fact.epoch, "completed_at": fact.completed_at}
    if isinstance(fact, TurnCompleted):
        shown["message"] = {"id": fact.message.id, "text": fact.message.text} if fact.message else None
        shown["reply"] = asdict(fact.reply) if fact.reply else None
        shown["escalated"] = bool(fact.changes and fact.changes.escalated)
    return shown


def _bearer(authorization: str | None) -> str | None:
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthorized(ErrorCode.TOKEN_INVALID, "Send the token as: Authorization: Bearer …")
    return token
