"""Requests to stop an answer, known as soon as they are read: they overtake the lane that they stand in."""


class Cancellations:
    """Per session the inbound ids whose answers nobody wants any more."""

    def __init__(self) -> None:
        self._targets: dict[str, set[str]] = {}

    def request(self, session_id: str, target: str) -> None:
        self._targets.setdefault(session_id, set()).add(target)

    def requested(self, session_id: str, inbound_id: str) -> bool:
        targets = self._targets.get(session_id)
        return targets is not None and inbound_id in targets

    def forget(self, session_id: str, target: str) -> None:
        """The lane has come past the request: whatever it was for is answered or was never there."""
        targets = self._targets.get(session_id)
        if targets is not None:
            targets.discard(target)
            if not targets:
                del self._targets[session_id]
