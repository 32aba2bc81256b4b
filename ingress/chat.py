"""REST: a question and its answer in one request."""

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ingress.access import SessionAccess
from ingress.authorization import Token
from ingress.errors import IngressError
from ingress.facts import Facts
from ingress.representations import shown_turn
from ingress.responses import Json
from schemas.frames import ErrorCode
from schemas.identity import InboundId, SessionId
from schemas.inbound import MAX_ATTACHMENTS, Attachment, Message, Metadata, ShortText, Text
from schemas.replies import TurnFailed

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


def chat_router(prefix: str, access: SessionAccess, facts: Facts) -> APIRouter:
    """The routes under `prefix`."""
    router = APIRouter(prefix=prefix)

    @router.post("/chat")
    async def chat(request: Request, asked: ChatRequest, token: Token) -> Response:
        """Publishes the message and waits for its reply: 200 with it, or 202 and where to look for it."""
        granted = await access.grant(asked.session_id, token, access.client(request.scope))
        message = Message(
            id=asked.id or str(uuid4()),
            session_id=granted.session_id,
            text=asked.text,
            user_id=asked.user_id,
            metadata=asked.metadata,
            attachments=asked.attachments,
            fingerprint_hash=granted.fingerprint_hash,
        )
        fact = await facts.request(message, asked.wait)
        body: dict[str, Any] = {"session_id": granted.session_id, "token": granted.token, "id": message.id}
        location = f"{prefix}/sessions/{granted.session_id}/turns"
        if fact is None:
            return Json({**body, "status": "accepted", "turns": location}, 202, headers={"Location": location})
        if isinstance(fact, TurnFailed):
            raise IngressError(422, ErrorCode.TURN_FAILED, fact.error)
        return Json({**body, "status": "answered", **shown_turn(fact)})

    return router
