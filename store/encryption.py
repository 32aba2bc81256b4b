"""Encryption at rest: what the store keeps of a session is sealed for that session.

Fernet (AES-128-CBC with HMAC-SHA-256, https://github.com/fernet/spec) has no associated data, so the session's id is
inside the plaintext and compared on opening: a value that was moved to another session's key is refused.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from store.errors import CorruptSession, WrongKey

_TOKEN_BEGINS = b"gAAAA"
"""Every Fernet token of this age: version 128 and a time stamp's zero bytes, in base64."""


class Cipher(Protocol):
    """Seals and opens what is stored of a session."""

    key_id: str
    """Names the key that seals; stored with the session, so that a rotation sees what it has done."""

    def seal(self, session_id: str, data: bytes) -> bytes: ...

    def open(self, session_id: str, sealed: bytes) -> bytes:
        """What was sealed.

        Raises:
            WrongKey: it was sealed with a key that is not known here, or it is not sealed at all.
            CorruptSession: it was sealed for another session.
        """
        ...


class PlainText:
    """Seals nothing."""

    key_id = ""

    def seal(self, session_id: str, data: bytes) -> bytes:
        return data

    def open(self, session_id: str, sealed: bytes) -> bytes:
        if sealed.startswith(_TOKEN_BEGINS):
            raise WrongKey(f"Session {session_id} is stored encrypted: set SESSION_ENCRYPTION_ENABLED and its key.")
        return sealed


def new_key() -> str:
    """A fresh Fernet key."""
    return Fernet.generate_key().decode()


class FernetCipher:
    """Seals with the first of `keys`; opens with any of them.

    Raises:
        ValueError: there is no key, or one is no Fernet key (32 bytes in URL-safe base64).
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("there is no key")
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self.key_ids = tuple(sha256(key.encode()).hexdigest()[:8] for key in keys)
        self.key_id = self.key_ids[0]

    def seal(self, session_id: str, data: bytes) -> bytes:
        return self._fernet.encrypt(session_id.encode() + b"\n" + data)

    def open(self, session_id: str, sealed: bytes) -> bytes:
        try:
            plain = self._fernet.decrypt(sealed)
        except InvalidToken as error:
            if not sealed.startswith(_TOKEN_BEGINS):
                raise WrongKey(
                    f"Session {session_id} is stored as plain text: encrypt it with `supportstream keys rotate`."
                ) from error
            raise WrongKey(
                f"Session {session_id} was encrypted with a key that is not in SESSION_ENCRYPTION_KEY: add it there."
            ) from error
        owner, _, data = plain.partition(b"\n")
        if owner != session_id.encode():
            raise CorruptSession(f"What is stored for session {session_id} belongs to another session.")
        return data
