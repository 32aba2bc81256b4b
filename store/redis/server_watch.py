"""Whether the server that answers is still the one that was written to.

A Redis that was replaced, by a failover or a restart, may lack writes that it had acknowledged. It shows by its run id.
"""

from collections.abc import Hashable

from store.errors import StoreReplaced


class ServerWatch:
    """Notices another server. Off unless `strict`: who only reads need not care. No I/O."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._known: Hashable = None
        self._newest: Hashable = None

    def seen(self, server: Hashable) -> None:
        """A server answered under this identity."""
        self._newest = server
        if self._known is None:
            self._known = server

    def is_newest(self, server: Hashable) -> bool:
        """False: somebody has seen another server since; a connection to this one is to be made anew."""
        return server == self._newest

    @property
    def newest(self) -> str:
        """The identity of the server that answered last, as text; empty where it isn't told."""
        if isinstance(self._newest, frozenset):
            return "+".join(sorted(self._newest))
        return self._newest.decode() if isinstance(self._newest, bytes) else ""

    def accept(self) -> None:
        self._known = self._newest

    def check(self) -> None:
        """Raises StoreReplaced while another server answers than the one that was accepted last."""
        if self._strict and self._newest != self._known:
            raise StoreReplaced("Redis was replaced or restarted, and may lack acknowledged writes.")
