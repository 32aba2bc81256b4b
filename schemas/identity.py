"""Identifiers: what a session id may look like, and ids that follow from others."""

import re
from hashlib import sha1
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, StringConstraints

SESSION_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"
_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def encodable(text: str) -> str:
    """`text`, if it can be written as UTF-8: JSON can name lone surrogates, which can't.

    Raises:
        ValueError: it has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("has a character that is no Unicode (a lone surrogate)") from error
    return text


SessionId = Annotated[str, StringConstraints(pattern=SESSION_ID_PATTERN)]
MAX_INBOUND_ID = 128
InboundId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_INBOUND_ID), AfterValidator(encodable)]

MINTED_PREFIX = "s-"
"""Session ids that the ingress made start so. They are unguessable and have a token from birth, so nobody
may open one without it; other ids get their token at the first `hello`."""

TURN_NAMESPACE = UUID("6f0a7c1e-58a4-5d0f-9d2b-3f1b5b2f4c11")
_TURN_NAMESPACE = TURN_NAMESPACE.bytes


def is_session_id(text: str) -> bool:
    return _SESSION_ID.fullmatch(text) is not None


def turn_id(session_id: str, inbound_id: str) -> str:
    """The id of the reply event to one inbound event: the same whoever computes it, however often."""
    # UUIDv5 (RFC 9562 §5.5) by hand: uuid.uuid5 takes four times as long, and this runs in every turn.
    digest = bytearray(
        sha1(_TURN_NAMESPACE + f"{session_id}\n{inbound_id}".encode(), usedforsecurity=False).digest()[:16]
    )
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def derived_inbound_id(topic: str, partition: int, offset: int) -> str:
    """The idempotency id of a record that brings none: where it stands in the log."""
    return f"{topic}:{partition}:{offset}"[-128:]
