"""A redis-server that speaks only TLS, to clients with a certificate and the password of a user with few rights."""

import hashlib
import secrets
from pathlib import Path

import redis

from ops.local.certificates import Certificates
from ops.local.ports import LOOPBACK, free_port
from ops.local.redis import RedisServer

USER = "supportstream"

# What a session store needs: the types it keeps, its own Lua scripts, the lives of its keys. Redis counts INFO as
# dangerous, for what it tells of the server; it shows no keys. A rebuild puts events in their place by RENAME, which
# could be done by copying them as well.
_RIGHTS = (
    "-@all +@connection +@hash +@list +@set +@sortedset +@string +evalsha +script|load +script|exists "
    "+del +unlink +exists +type +expire +pexpire +expireat +pexpireat +persist +ttl +pttl +scan +time "
    "-@dangerous +info +rename"
)
_PING_TIMEOUT_S = 1.0


class RedisTls(RedisServer):
    """One redis-server behind TLS; its one user reaches only the keys that begin with `key_prefix`.

    Only SCAN tells the names of other keys, too. The password lasts as long as the object, and so do the
    certificates that the first start makes.
    """

    def __init__(self, directory: Path, *, key_prefix: str = "agent:session:", port: int | None = None) -> None:
        """`key_prefix` must have no blanks, and none of `*?[]\\`, which Redis takes for a pattern."""
        port = free_port() if port is None else port
        certificates = Certificates(directory / "certificates")
        acl_file = directory.resolve() / "users.acl"
        options = [
            *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "yes"),
            *("--tls-ca-cert-file", str(certificates.ca_file)),
            *("--tls-cert-file", str(certificates.server_cert_file)),
            *("--tls-key-file", str(certificates.server_key_file)),
            *("--aclfile", str(acl_file)),
        ]
        super().__init__(directory, port=port, options=options)
        self._certificates = certificates
        self._acl_file = acl_file
        self._key_prefix = key_prefix
        self._password = secrets.token_urlsafe()

    @property
    def url(self) -> str:
        return f"rediss://{USER}:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def ca_file(self) -> Path:
        return self._certificates.ca_file

    @property
    def client_cert_file(self) -> Path:
        return self._certificates.client_cert_file

    @property
    def client_key_file(self) -> Path:
        return self._certificates.client_key_file

    def start(self) -> None:
        if self._server is None:
            self._certificates.make()
            self._acl_file.write_text(self._users(), encoding="utf-8")
        super().start()

    def _users(self) -> str:
        digest = hashlib.sha256(self._password.encode()).hexdigest()
        return f"user default off\nuser {USER} on #{digest} ~{self._key_prefix}* {_RIGHTS}\n"

    def _answers(self) -> bool:
        client = redis.Redis.from_url(
            self.url,
            ssl_ca_certs=str(self.ca_file),
            ssl_certfile=str(self.client_cert_file),
            ssl_keyfile=str(self.client_key_file),
            socket_timeout=_PING_TIMEOUT_S,
            retry=None,
        )
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise OSError(str(error)) from error
        finally:
            client.close()
