"""Encryption at rest: what the store keeps of a session is sealed for that session.

AES-256-GCM (NIST SP 800-38D) under a key of the session's own, which is derived from the master key by keyed BLAKE2b
(RFC 7693). So random nonces never come near their limit of 2^32 under one key, and a value that was moved to another
session's key can't be opened there. Decision 13 says why not Fernet.

A sealed value: version (1 byte), key id (4), nonce (12), ciphertext with its tag.
"""

import os
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from store.errors import CorruptSession, WrongKey

KEY_BYTES = 32
_VERSION = b"\x01"
_NONCE_AT = 5
_CIPHERTEXT_AT = _NONCE_AT + 12


class Cipher(Protocol):
    """Seals and opens what is stored of a session."""

    key_id: str
    """Names the key that seals; stored with the session, so that a rotation sees what it has done."""

    def seal(self, session_id: str, data: bytes) -> bytes: ...

    def open(self, session_id: str, sealed: bytes) -> bytes:
        """What was sealed.

        Raises:
            WrongKey: it was sealed with a key that is not known here, or it is not sealed at all.
            CorruptSession: it was changed, or sealed for another session.
        """
        ...


class PlainText:
    """Seals nothing."""

    key_id = ""

    def seal(self, session_id: str, data: bytes) -> bytes:
        return data

    def open(self, session_id: str, sealed: bytes) -> bytes:
        if sealed.startswith(_VERSION):
            raise WrongKey(f"Session {session_id} is stored encrypted: set SESSION_ENCRYPTION_ENABLED and its key.")
        return sealed


def new_key() -> str:
    """A fresh master key: 256 random bits in URL-safe base64."""
    return urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


class SessionCipher:
    """Seals with the first of `keys`; opens with any of them.

    Raises:
        ValueError: there is no key, or one is not 32 bytes in URL-safe base64.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("there is no key")
        masters = [_decoded(key) for key in keys]
        ids = [sha256(key.encode()).digest()[:4] for key in keys]
        self._masters = dict(zip(ids, masters, strict=True))
        self._sealing = masters[0]
        self._head = _VERSION + ids[0]
        self.key_ids = tuple(key_id.hex() for key_id in ids)
        self.key_id = self.key_ids[0]

    @staticmethod
    def sealed_by(sealed: bytes) -> str:
        """The id of the key that sealed it, whether it is known here or not."""
        return sealed[1:_NONCE_AT].hex()

    def seal(self, session_id: str, data: bytes) -> bytes:
        nonce = os.urandom(12)
        sealed: bytes = _of_session(self._sealing, session_id).encrypt(nonce, data, None)
        return self._head + nonce + sealed

    def open(self, session_id: str, sealed: bytes) -> bytes:
        if not sealed.startswith(_VERSION):
            raise WrongKey(
                f"Session {session_id} is stored as plain text: encrypt it with `supportstream keys rotate`."
            )
        master = self._masters.get(sealed[1:_NONCE_AT])
        if master is None:
            raise WrongKey(
                f"Session {session_id} was encrypted with a key that is not in SESSION_ENCRYPTION_KEY: add it there."
            )
        try:
            data: bytes = _of_session(master, session_id).decrypt(
                sealed[_NONCE_AT:_CIPHERTEXT_AT], sealed[_CIPHERTEXT_AT:], None
            )
        except (InvalidTag, ValueError) as error:
            raise CorruptSession(
                f"What is stored for session {session_id} was changed, or belongs to another session."
            ) from error
        return data


@lru_cache(maxsize=10_000)
def _of_session(master: bytes, session_id: str) -> AESGCM:
    # Kept, because a turn seals twice and the next one comes soon; it tells no more than the master key beside it.
    return AESGCM(blake2b(session_id.encode(), key=master, digest_size=KEY_BYTES, person=b"session at rest").digest())


def _decoded(key: str) -> bytes:
    master = b64decode(key.encode(), altchars=b"-_", validate=True)
    if len(master) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(master)}")
    return master
