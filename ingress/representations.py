"""What a client sees over REST of a session and of its turns."""

from dataclasses import asdict
from typing import Any

from schemas.replies import ReplyEvent, TurnCompleted
from schemas.session import SessionData


def shown_session(session: SessionData) -> dict[str, Any]:
    """The session without what serves the pipeline alone. Times that have not come yet are null."""
    return {
        "session_id": session.session_id,
        "user_id": session.user_id,
        "thread_id": session.thread_id,
        "message_count": session.message_count,
        "escalated": session.escalated,
        "metadata": session.metadata,
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "last_activity": session.last_activity or None,
        "epoch": session.epoch,
        "seq": session.seq,
        "version": session.version,
    }


def entity_tag(session: SessionData) -> str:
    """Another one after every change (RFC 9110 §8.8.3)."""
    return f'"{session.epoch}-{session.version}"'


def shown_turn(fact: ReplyEvent) -> dict[str, Any]:
    """A turn; of any other event only when it was, and its place."""
    shown: dict[str, Any] = {"seq": fact.seq, "epoch": fact.epoch, "completed_at": fact.completed_at}
    if isinstance(fact, TurnCompleted):
        shown["message"] = {"id": fact.message.id, "text": fact.message.text} if fact.message else None
        shown["reply"] = asdict(fact.reply) if fact.reply else None
        shown["escalated"] = bool(fact.changes and fact.changes.escalated)
    return shown
