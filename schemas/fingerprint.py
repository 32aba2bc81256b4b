"""Fingerprints: whether a client looks like the one that the session began with."""

from hashlib import blake2b


def fingerprint(session_id: str, ip: str, user_agent: str) -> str:
    """A hash (128 bits, hex) of a client's address and user agent. It differs between sessions, so that nobody's
    sessions can be linked by it."""
    return blake2b(f"{ip}\n{user_agent}".encode(), digest_size=16, key=session_id.encode()[:64]).hexdigest()
