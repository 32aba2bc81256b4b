"""Records of the keys topic: per session the keys that its content in the other topics is sealed with.

The topic is compacted. A record's key names session and key, its value is the key, wrapped by the master key; a record
without a value says that the key was destroyed.
"""

from base64 import b64decode, b64encode

import orjson
from pydantic import TypeAdapter

from schemas.frozen import frozen
from schemas.identity import SessionId, is_session_id
from schemas.sealed import KEY_ID_BYTES

BEAT = b"#beat"
"""A record key that no session can have. Kafka compacts what is behind the segment that is written to, so something
must be written now and then for a destroyed key to go."""


@frozen(kw_only=True)
class WrappedKey:
    """One key of a session. Useless without the master key that wrapped it."""

    schema_version: int = 1
    session_id: SessionId
    key_id: str
    wrapped: str
    """In base64."""

    @property
    def wrapped_bytes(self) -> bytes:
        return b64decode(self.wrapped)


_WRAPPED_KEY = TypeAdapter(WrappedKey)


def key_name(session_id: str, key_id: str) -> str:
    """What a key is wrapped for, and the key of its record. Each has one of its own, so two processes that make one at
    once overwrite nothing; and it is no session's name, which has no slash."""
    return f"{session_id}/{key_id}"


def parse_key_name(key: bytes) -> tuple[str, str]:
    """(session id, key id). Raises ValueError: it names no key of a session."""
    session_id, _, key_id = key.decode().partition("/")
    if not is_session_id(session_id) or len(bytes.fromhex(key_id)) != KEY_ID_BYTES:
        raise ValueError(f"{key!r} names no key of a session")
    return session_id, key_id


def encode_key(session_id: str, key_id: str, wrapped: bytes) -> bytes:
    return orjson.dumps(WrappedKey(session_id=session_id, key_id=key_id, wrapped=b64encode(wrapped).decode()))


def decode_key(value: bytes) -> WrappedKey:
    """Raises pydantic.ValidationError."""
    return _WRAPPED_KEY.validate_json(value)
