"""One customer of the load generator: a WebSocket client that costs almost no CPU.

The generator shares the machine with what it measures, so each microsecond that it spends is missing there.
This client therefore speaks only the part of RFC 6455 that the bench needs: unfragmented frames, a constant
masking key, no extensions. It is no WebSocket client for anything else.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Iterator
from typing import Protocol, cast

import orjson

SUBPROTOCOL = "support.v1.json"

# Masking protects proxies on the way from chosen bytes; on loopback there is none, and under a key of zeros
# the masked payload is the payload. The server unmasks all the same.
MASKING_KEY = bytes(4)
MASKED = 0x80
FINAL = 0x80
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


class Recorder(Protocol):
    """Hears of everything that happens to a customer."""

    def welcomed(self) -> None:
        """The server has answered hello."""

    def answered(self, sent_at: float, received_at: float) -> bool:
        """A turn is complete (times of `time.perf_counter`). Tells whether the customer shall go on."""

    def failed(self, reason: str) -> None:
        """The connection is lost or the server refused something; the customer has stopped."""


class Customer(asyncio.Protocol):
    """Says hello, then sends the next of `texts` as soon as the reply to the one before has arrived."""

    def __init__(self, host: str, recorder: Recorder, texts: Iterator[str]) -> None:
        self._host = host
        self._recorder = recorder
        self._texts = texts
        self._transport: asyncio.Transport
        self._received = b""
        self._upgraded = False
        self._stopped = False
        self._count = 0
        self._awaited_id = ""
        self._sent_at = 0.0

    def speak(self) -> None:
        """Send the next message, unless this customer has stopped."""
        if self._stopped:
            return
        self._count += 1
        self._awaited_id = str(self._count)
        message = {"type": "message", "id": self._awaited_id, "text": next(self._texts)}
        payload = orjson.dumps(message)
        self._sent_at = time.perf_counter()
        self._transport.write(frame(TEXT, payload))

    def leave(self) -> None:
        """Close the connection; nothing that happens from now on is recorded."""
        self._stopped = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        if not self._upgraded:
            head, separator, received = received.partition(b"\r\n\r\n")
            if not separator:
                self._received = head
                return
            status = head.decode("latin-1").partition("\r\n")[0]
            if not status.startswith("HTTP/1.1 101 ") or SUBPROTOCOL.encode() not in head:
                self._fail(f"no upgrade to {SUBPROTOCOL}: {status}")
                return
            self._upgraded = True
            self._transport.write(frame(TEXT, b'{"type":"hello"}'))
        self._received = self._take_frames(received)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection lost: {exc or 'closed by the server'}")

    def _take_frames(self, received: bytes) -> bytes:
        """Handle the complete frames at the start of `received`; return the rest."""
        while len(received) >= 2:
            start, length = 2, received[1]
            if length == 126:
                start, length = 4, int.from_bytes(received[2:4], "big")
            elif length == 127:
                start, length = 10, int.from_bytes(received[2:10], "big")
            end = start + length
            if len(received) < max(start, end):
                break
            self._take_frame(received[0], received[start:end])
            received = received[end:]
        return received

    def _take_frame(self, first_byte: int, payload: bytes) -> None:
        if first_byte == FINAL | TEXT:
            self._take_message(orjson.loads(payload))
        elif first_byte == FINAL | PING:
            self._transport.write(frame(PONG, payload))
        elif first_byte == FINAL | CLOSE:
            self._fail(f"closed by the server: code {int.from_bytes(payload[:2], 'big')}")
        else:
            self._fail(f"a frame that this client does not understand: first byte {first_byte:#x}")

    def _take_message(self, message: dict[str, object]) -> None:
        kind = message["type"]
        if kind == "reply":
            received_at = time.perf_counter()
            if message["id"] != self._awaited_id:
                self._fail(f"the reply to {message['id']} where {self._awaited_id} was awaited")
            elif self._recorder.answered(self._sent_at, received_at):
                self.speak()
        elif kind == "welcome":
            self._recorder.welcomed()
        elif kind == "error":
            self._fail(f"{message.get('code')}: {message.get('message')}")

    def _fail(self, reason: str) -> None:
        if not self._stopped:
            self.leave()
            self._recorder.failed(reason)


def frame(opcode: int, payload: bytes) -> bytes:
    """A complete masked frame (RFC 6455 section 5.2) of at most 65,535 payload bytes."""
    length = len(payload)
    if length < 126:
        return bytes((FINAL | opcode, MASKED | length)) + MASKING_KEY + payload
    return bytes((FINAL | opcode, MASKED | 126)) + length.to_bytes(2, "big") + MASKING_KEY + payload
