"""The names of keys in Redis. All of a session share its hash tag, and with it a cluster's slot."""

from hashlib import sha256

_DIGEST_BYTES = 12


class Keys:
    """Keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.fence = f"{prefix}fence"
        self.progress = f"{prefix}progress"
        self.session_keys_mark = f"{prefix}keys"

    def session(self, session_id: str) -> str:
        return f"{self._prefix}{{{session_id}}}"

    def events(self, session_id: str) -> str:
        return f"{self._prefix}{{{session_id}}}:events"

    def earlier_ids(self, session_id: str) -> str:
        return f"{self._prefix}{{{session_id}}}:ids"

    def session_keys(self, session_id: str) -> str:
        return f"{self._prefix}{{{session_id}}}:keys"

    def destroyed_keys(self, session_id: str) -> str:
        return f"{self._prefix}{{{session_id}}}:destroyed"

    @property
    def pattern(self) -> str:
        """What SCAN matches session keys by; their lists and locks don't end like this."""
        escaped = "".join(f"\\{character}" if character in "*?[]\\" else character for character in self._prefix)
        return f"{escaped}{{*}}"

    def session_id(self, key: bytes) -> str:
        """The session whose key this is. One that is no UTF-8 is none of ours, and gives an id without a session."""
        return key.decode(errors="replace")[len(self._prefix) + 1 : -1]


def digest_of_id(inbound_id: str) -> bytes:
    """What stands for an inbound id in the set of earlier ones. Twelve bytes: that two ids of one session share theirs
    is as likely as not only beyond 10^14 of them."""
    return sha256(inbound_id.encode()).digest()[:_DIGEST_BYTES]
