"""The WebSocket edge: who may connect, and which sockets are open."""

from ingress.middleware import Receive, Scope, SendMessage
from ingress.origins import OriginPolicy
from ingress.socket import Socket, SocketParts
from ingress.wire import WIRE
from schemas.frames import SUBPROTOCOL, CloseCode


class Edge:
    """Serves WebSockets, as an ASGI application on a server whose sockets are `ingress.wire.WireProtocol`."""

    def __init__(self, parts: SocketParts, origins: OriginPolicy) -> None:
        self._parts = parts
        self._origins = origins
        self._sockets: set[Socket] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """One connection, from handshake to close."""
        await receive()  # websocket.connect
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._origins.allows(headers):
            # Refused before the handshake: the browser sees 403.
            self._parts.observer.frame_refused("origin")
            await send({"type": "websocket.close", "code": CloseCode.FORBIDDEN, "reason": "origin not allowed"})
            return
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        socket = Socket(scope["extensions"][WIRE], self._parts, self._parts.access.client(scope))
        self._sockets.add(socket)
        # Nothing was read since the handshake: nothing waited.
        socket.opened()
        try:
            await receive()  # websocket.disconnect: messages come over the wire
        finally:
            self._sockets.discard(socket)
            socket.gone()

    @property
    def sockets(self) -> int:
        return len(self._sockets)

    def close_all(self) -> None:
        """Tells every client to reconnect, to another process, and resume."""
        for socket in self._sockets:
            socket.close(CloseCode.SERVICE_RESTART, "restarting")
