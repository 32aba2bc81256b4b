"""All settings, from the environment and `.env`. A wrong, unknown or contradictory one is an error at start."""

import difflib
import os
import secrets
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ingress.client_address import TrustedProxies
from ops.errors import UsageError
from schemas.session import RECENT_EVENTS
from store.encryption import SessionCipher, new_key
from store.redis.address import parse_address

DAY_SECONDS = 24 * 60 * 60
_OURS = ("SESSION_", "KAFKA_", "REDIS_", "REDLOCK_", "TOPIC_", "WORKER_", "TOKEN_", "API_", "CORS_", "TRUSTED_")
CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Field names in upper case are the environment variables. Times in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_file=".env", extra="forbid", frozen=True, env_ignore_empty=True)

    environment: Literal["development", "production"] = "development"
    """In production nothing has an insecure default: secrets must be set."""
    debug: bool = False
    """Serves `/docs` and shows details of unexpected errors."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    """`auto`: console on a terminal, JSON elsewhere."""

    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    api_prefix: Annotated[str, Field(pattern=r"^/[a-z0-9/._-]*[a-z0-9]$")] = "/api/v1"
    cors_origins: CommaSeparated = ()
    """Web origins that may connect, exact and comma-separated; none: only the pages served from here."""
    trusted_proxies: CommaSeparated = ()
    """Proxies whose X-Forwarded-For is believed: addresses and CIDRs, comma-separated."""
    token_secret: SecretStr | None = None
    """Signs session tokens; the same for all ingress processes, at least 32 characters."""
    token_ttl_seconds: Annotated[int, Field(ge=60)] = 7 * DAY_SECONDS
    socket_outbox_frames: Annotated[int, Field(ge=8, le=RECENT_EVENTS)] = 48
    """Frames that may wait for a slow WebSocket client before it is told to reconnect; no more than can be resumed."""

    kafka_bootstrap_servers: str | None = None
    """None: `dev` starts an embedded broker, everything else refuses to start."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: str | None = None
    kafka_idempotent_producer: bool = True
    """False only for a broker that knows no idempotent producers, like the one that `dev` embeds: a retried send may
    then be in the log twice, and is recognised by its id."""
    kafka_send_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    kafka_metadata_max_age_seconds: Annotated[float, Field(ge=0.1)] = 10.0
    """How soon a process notices partitions that were added."""
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = "support."
    topic_partitions: Annotated[int, Field(ge=1, le=10_000)] = 12
    topic_replication_factor: Annotated[int, Field(ge=-1, le=9)] = -1
    """-1: the broker's default."""
    topic_replies_retention_days: Annotated[float, Field(ge=0, le=36_500)] = 0
    """How long reply events are kept; 0: for ever. Without them only snapshots can rebuild a session."""
    extra_inbound_topics: CommaSeparated = ()
    """Further topics of inbound events; their turns run under the lock."""
    consumer_group: Annotated[str, Field(min_length=1)] = "supportstream-workers"

    session_store_type: Literal["in_memory", "redis"] | None = None
    """None: Redis if REDIS_URL is set, else in memory (which only `dev` can use)."""
    session_timeout_seconds: Annotated[int, Field(ge=1)] = DAY_SECONDS
    """How long the in-memory store keeps a session after its last activity."""
    session_l1_cache_enabled: bool = True
    session_l1_cache_size: Annotated[int, Field(ge=0)] = 10_000
    session_l1_cache_ttl_seconds: Annotated[float, Field(gt=0)] = 3_600.0
    session_locking_enabled: bool = True
    """False: what the partition gives no ownership of goes to the dead letter topic instead."""
    session_lock_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    """The lease; it is renewed while the lock is held."""
    session_lock_retry_attempts: Annotated[int, Field(ge=1)] = 3
    """A lock that is taken is waited for as many leases."""
    redlock_urls: CommaSeparated = ()
    """Independent Redis servers, comma-separated, of which a majority gives a lock; none: Redis itself."""
    session_fingerprinting_enabled: bool = False
    """Compares who opens a session by its token with who began it, by address and user agent."""
    session_fingerprint_strict: bool = False
    """Refuses a client that looks otherwise, instead of only noting it."""
    session_encryption_enabled: bool = False
    session_encryption_key: SecretStr | None = None
    """Keys of 32 bytes in URL-safe base64, comma-separated: the first encrypts, all decrypt."""
    topic_encryption_enabled: bool | None = None
    """Encrypts what the topics keep of a session with keys of its own, which a deletion destroys; with
    SESSION_ENCRYPTION_KEY around them. None: in production, where SESSION_ENCRYPTION_ENABLED is."""
    redis_url: SecretStr | None = None
    redis_max_connections: Annotated[int, Field(ge=1)] = 50
    redis_socket_timeout: Annotated[float, Field(gt=0)] = 5.0
    redis_socket_connect_timeout: Annotated[float, Field(gt=0)] = 5.0
    redis_retry_on_timeout: bool = True
    redis_health_check_interval: Annotated[int, Field(ge=0)] = 30
    redis_wait_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that must have a turn before its reply is published; not with a cluster."""
    redis_ssl_ca_file: str | None = None
    redis_ssl_cert_file: str | None = None
    redis_ssl_key_file: str | None = None
    redis_session_ttl_seconds: Annotated[int, Field(ge=1)] = 30 * DAY_SECONDS
    redis_session_key_prefix: Annotated[str, Field(min_length=1)] = "agent:session:"

    worker_concurrency: Annotated[int, Field(ge=1)] = 256
    """Sessions that one worker answers at once."""
    worker_max_open_per_partition: Annotated[int, Field(ge=2)] = 1_000
    worker_drain_seconds: Annotated[float, Field(ge=0)] = 20.0
    worker_stall_seconds: Annotated[float, Field(gt=0)] = 300.0
    """With open records and nothing committed for longer, `/health/live` fails; longer than any answer takes."""
    snapshot_interval_seconds: Annotated[float, Field(ge=0)] = 0.0
    """So often one of the workers writes snapshots of all sessions, in the background; 0: none does."""
    snapshot_records_per_second: Annotated[int, Field(ge=1)] = 2_000
    """How many reply records that reads a second."""
    worker_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Port of the worker's `/health*` and `/metrics`; 0: none."""
    worker_instance_id: str | None = None
    """Static group membership: unique and stable per worker, so that a restart moves no partitions."""
    worker_session_timeout_ms: Annotated[int, Field(ge=1_000)] = 10_000
    ordering: Literal["partition", "lock"] = "partition"
    """`lock`: every turn runs under a session lock, for topics that are not keyed by session."""
    turn_attempts: Annotated[int, Field(ge=1)] = 5

    generator: Literal["extractive", "null"] = "extractive"
    embedding_model: str | None = None
    """Name or path of a sentence-transformers model; None: the packaged all-MiniLM-L6-v2."""
    answer_pace_words_per_second: Annotated[float, Field(ge=0)] = 0.0
    """Streams answers at this pace; 0: whole, at once."""

    @field_validator("cors_origins", "trusted_proxies", "extra_inbound_topics", "redlock_urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, _, host = origin.partition("://")
            if scheme not in ("http", "https") or not host or "/" in host or "*" in host:
                raise ValueError(f"{origin!r} is no exact origin; write it like https://shop.example")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        TrustedProxies(proxies)
        return proxies

    @field_validator("redis_url")
    @classmethod
    def _redis_url_has_a_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_address(url.get_secret_value())
        return url

    @field_validator("redlock_urls")
    @classmethod
    def _lock_nodes_are_servers(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(urls)) != len(urls):
            raise ValueError("names a server twice; each must be independent of the others")
        for url in urls:
            parse_address(url)
        return urls

    @field_validator("session_encryption_key")
    @classmethod
    def _keys_are_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None:
            try:
                SessionCipher(split_keys(keys))
            except ValueError as error:
                raise ValueError("holds what is no key; make one: supportstream keys generate") from error
        return keys

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _servers_have_ports(cls, servers: str | None) -> str | None:
        for server in (servers or "").split(","):
            host, _, port = server.strip().rpartition(":")
            if servers is not None and not (host and port.isdecimal() and 0 < int(port) < 65_536):
                raise ValueError(f"{server.strip()!r} is no host:port")
        return servers

    @field_validator("kafka_ssl_cafile", "redis_ssl_ca_file", "redis_ssl_cert_file", "redis_ssl_key_file")
    @classmethod
    def _file_is_there(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).is_file():
            raise ValueError(f"there is no file {path}")
        return path

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.session_store_type == "redis" and self.redis_url is None:
            raise ValueError("SESSION_STORE_TYPE=redis needs REDIS_URL")
        if self.session_store_type == "in_memory" and self.redis_url is not None:
            raise ValueError("REDIS_URL is set, but SESSION_STORE_TYPE=in_memory; unset one of them")
        if bool(self.redis_ssl_cert_file) != bool(self.redis_ssl_key_file):
            raise ValueError("REDIS_SSL_CERT_FILE and REDIS_SSL_KEY_FILE belong together; set both or none")
        if self.redis_wait_replicas and self.redis_form == "cluster":
            raise ValueError("REDIS_WAIT_REPLICAS does not work with a cluster; unset it")
        if self.environment == "production" and self.session_encryption_enabled and self.session_encryption_key is None:
            raise ValueError(
                "SESSION_ENCRYPTION_ENABLED needs SESSION_ENCRYPTION_KEY; make one: supportstream keys generate"
            )
        if self.topic_encryption_enabled and not (
            self.session_encryption_enabled and self.session_encryption_key and self.redis_url
        ):
            raise ValueError(
                "TOPIC_ENCRYPTION_ENABLED needs SESSION_ENCRYPTION_ENABLED=true, SESSION_ENCRYPTION_KEY and REDIS_URL"
            )
        if self.session_fingerprint_strict and not self.session_fingerprinting_enabled:
            raise ValueError("SESSION_FINGERPRINT_STRICT needs SESSION_FINGERPRINTING_ENABLED=true")
        if self.ordering == "lock" and not self.session_locking_enabled:
            raise ValueError("ORDERING=lock needs SESSION_LOCKING_ENABLED=true")
        if self.kafka_security_protocol.startswith("SASL_") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs KAFKA_SASL_USERNAME and "
                "KAFKA_SASL_PASSWORD"
            )
        if self.environment == "production":
            if self.token_secret is None:
                raise ValueError(
                    "ENVIRONMENT=production needs TOKEN_SECRET; make one: "
                    'python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
                )
            if self.debug:
                raise ValueError("DEBUG can't be on when ENVIRONMENT=production")
        if self.token_secret is not None and len(self.token_secret.get_secret_value()) < 32:
            raise ValueError("TOKEN_SECRET must have at least 32 characters")
        return self

    @property
    def store_type(self) -> Literal["in_memory", "redis"]:
        return self.session_store_type or ("redis" if self.redis_url else "in_memory")

    @property
    def fingerprinting(self) -> Literal["off", "lenient", "strict"]:
        if not self.session_fingerprinting_enabled:
            return "off"
        return "strict" if self.session_fingerprint_strict else "lenient"

    @property
    def redis_form(self) -> str:
        """In which form Redis runs; empty without one."""
        return parse_address(self.redis_url.get_secret_value()).form if self.redis_url else ""

    @property
    def seals_topics(self) -> bool:
        """Whether what is published of a session is encrypted."""
        if self.topic_encryption_enabled is None:
            return self.environment == "production" and self.session_encryption_enabled
        return self.topic_encryption_enabled

    def encryption_keys(self) -> list[str]:
        """The keys, the encrypting one first; none where encryption is off. In development one is made up for this
        run, if none is set."""
        if not self.session_encryption_enabled:
            return []
        return split_keys(self.session_encryption_key) if self.session_encryption_key else [new_key()]

    def signing_secret(self) -> str:
        """The token secret; in development one that is made up for this run."""
        return self.token_secret.get_secret_value() if self.token_secret else secrets.token_urlsafe(48)


def split_keys(keys: SecretStr) -> list[str]:
    return [key.strip() for key in keys.get_secret_value().split(",") if key.strip()]


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with `overrides` first.

    Raises:
        UsageError: one line that names the setting and what is wrong with it.
    """
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name in known or not name.startswith(_OURS):
            continue
        ours_alone = name.startswith("SESSION_")
        # Other programs read KAFKA_* and REDIS_* as well; only a name that is nearly ours is a mistake.
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6 if ours_alone else 0.85)
        if close or ours_alone:
            raise UsageError(f"{name} is not a setting" + (f"; did you mean {close[0]}?" if close else ""))
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]).upper()
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, known, n=1)
            message = "is not a setting" + (f"; did you mean {close[0]}?" if close else "")
        raise UsageError(f"{name}: {message}" if name else message) from error
