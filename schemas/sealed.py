"""Sealed values: content of a session in a topic, readable only while the session's key is there.

A sealed value begins with a byte that no JSON begins with, and says whose it is and with which key it was sealed:

    version (1 byte), length of the session id (1), session id, key id (16), nonce (12), ciphertext with its tag

All before the ciphertext is authenticated with it (AES-256-GCM, NIST SP 800-38D).
"""

from collections.abc import Iterable

from schemas.frozen import frozen

WITHOUT_CONTENT = frozenset({"cancel", "feedback", "session.delete", "session.deleted"})
"""Types of events that say nothing that a person wrote, or is. They are published in clear: a worker knows a cancel
before its lane comes to it, and a deletion is what is left when the rest can't be read any more."""
KEY_ID_BYTES = 16
NONCE_BYTES = 12
_VERSION = 1
_FIRST = bytes([_VERSION])
_ID_AT = 2
_TAG_BYTES = 16


@frozen()
class Sealed:
    """A sealed value, taken apart."""

    session_id: str
    key_id: str
    """In hexadecimal, as it is everywhere but in here."""
    head: bytes
    """All before the ciphertext: it is authenticated, too."""
    nonce: bytes
    ciphertext: bytes


def is_sealed(value: bytes | None) -> bool:
    """Whether `value` is sealed: what else is in our topics is JSON, or empty."""
    return value is not None and value[:1] == _FIRST


def any_sealed(values: Iterable[bytes | None]) -> bool:
    """Whether one of them is."""
    for value in values:  # noqa: SIM110  # a generator takes twice as long
        if value is not None and value[:1] == _FIRST:
            return True
    return False


def head_of(session_id: str, key_id: str, nonce: bytes) -> bytes:
    """What stands before the ciphertext."""
    name = session_id.encode()
    return _FIRST + bytes([len(name)]) + name + bytes.fromhex(key_id) + nonce


def parse_sealed(value: bytes) -> Sealed:
    """Raises ValueError: that is no sealed value."""
    if not is_sealed(value) or len(value) < _ID_AT:
        raise ValueError("the value is not sealed")
    key_at = _ID_AT + value[1]
    nonce_at = key_at + KEY_ID_BYTES
    ciphertext_at = nonce_at + NONCE_BYTES
    if len(value) < ciphertext_at + _TAG_BYTES:
        raise ValueError("the sealed value is cut off")
    return Sealed(
        session_id=value[_ID_AT:key_at].decode(),
        key_id=value[key_at:nonce_at].hex(),
        head=value[:ciphertext_at],
        nonce=value[nonce_at:ciphertext_at],
        ciphertext=value[ciphertext_at:],
    )
