"""The stored form of a session's state: its canonical JSON, sealed."""

import orjson

from schemas.session import SessionData
from store.encryption import Cipher
from store.errors import CorruptSession


def open_state(cipher: Cipher, session_id: str, sealed: bytes) -> SessionData:
    """The session that `sealed` is the state of.

    Raises:
        CorruptSession: it is no session's state, or another one's.
        WrongKey: as `Cipher.open`.
    """
    state = cipher.open(session_id, sealed)
    try:
        session = SessionData.from_json(state)
    except (orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise CorruptSession(f"The stored session {session_id} can't be read: {error}") from error
    if session.session_id != session_id:
        raise CorruptSession(f"The state stored for session {session_id} belongs to another session.")
    return session
