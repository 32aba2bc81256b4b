"""How Kafka is reached, as arguments that aiokafka's clients share."""

import ssl
from dataclasses import dataclass, replace
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.helpers import create_ssl_context

from ops.kafka.screened_consumer import ScreenedConsumer
from store.seals import NO_KEYS, Seals

_SPAN_WAIT_MS = 20


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Bootstrap servers and credentials."""

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = None
    ssl_cafile: str | None = None
    client_id: str = "supportstream"
    idempotent_producer: bool = True
    fetch_max_wait_ms: int = 500
    """How long a broker may hold a fetch open for new records."""

    def client_arguments(self) -> dict[str, Any]:
        """What every client takes."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol in ("SSL", "SASL_SSL"):
            arguments["ssl_context"] = self._ssl_context()
        if self.security_protocol.startswith("SASL_"):
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.sasl_username
            arguments["sasl_plain_password"] = self.sasl_password
        return arguments

    def fetch_arguments(self) -> dict[str, Any]:
        """What every consumer takes on top."""
        return {"fetch_max_wait_ms": self.fetch_max_wait_ms}

    def producer(self, *, request_timeout_ms: int, max_request_bytes: int = 1_048_576) -> AIOKafkaProducer:
        """A producer that is sure of what it sent: all in-sync replicas, and no duplicates by its own retries."""
        return AIOKafkaProducer(
            **self.client_arguments(),
            acks="all",
            enable_idempotence=self.idempotent_producer,
            request_timeout_ms=request_timeout_ms,
            max_request_size=max_request_bytes,
            linger_ms=0,
            max_batch_size=262_144,
        )

    def reader(self, **arguments: Any) -> AIOKafkaConsumer:
        """A consumer without a group: it never moves committed offsets."""
        return ScreenedConsumer(
            **self.client_arguments(), **self.fetch_arguments(), enable_auto_commit=False, group_id=None, **arguments
        )

    def span_reader(self, *, seals: Seals = NO_KEYS, **arguments: Any) -> AIOKafkaConsumer:
        """A reader of what is there now, from the beginning unless told otherwise, that stops at its end. What is
        sealed comes opened by `seals`.

        The broker answers a connection's requests one after the other: whatever is asked of it next waits for a fetch
        that waits for records, so this one's do hardly.
        """
        soon = replace(self, fetch_max_wait_ms=min(_SPAN_WAIT_MS, self.fetch_max_wait_ms))
        return soon.reader(auto_offset_reset="earliest", seals=seals, **arguments)

    def _ssl_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = create_ssl_context(cafile=self.ssl_cafile)
        return context
