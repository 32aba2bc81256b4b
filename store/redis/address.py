"""Where Redis is: the forms of REDIS_URL.

| form | means |
|---|---|
| `redis://host:port/db`, `rediss://…`, `unix:///path` | one server; with TLS; over a socket |
| `redis+sentinel://host:port,host:port/name/db` | the master that these sentinels know under `name` |
| `redis+cluster://host:port,host:port` | a cluster, found through any of these nodes |

`rediss+sentinel` and `rediss+cluster` speak TLS. User and password stand before the hosts: `redis://user:password@…`.
"""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

Form = Literal["server", "sentinel", "cluster"]
_FORMS: dict[str, Form] = {
    "redis": "server",
    "rediss": "server",
    "unix": "server",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis in one of its forms."""

    form: Form
    url: str
    """As redis-py takes it, for `server`."""
    tls: bool
    hosts: tuple[tuple[str, int], ...] = ()
    username: str | None = None
    password: str | None = None
    master_name: str = ""
    database: int = 0


def parse_address(url: str) -> RedisAddress:
    """Raises ValueError, whose text says what is wrong without the password in it."""
    scheme, separator, _ = url.partition("://")
    form = _FORMS.get(scheme)
    if not separator or form is None:
        raise ValueError(f"must begin with {', '.join(f'{known}://' for known in _FORMS)}")
    tls = scheme.startswith("rediss")
    if form == "server":
        return RedisAddress(form, url, tls)
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    path = [part for part in parts.path.split("/") if part]
    if form == "sentinel" and not path:
        raise ValueError(f"{scheme}:// needs the master's name: {scheme}://host:port,host:port/name")
    if form == "cluster" and path not in ([], ["0"]):
        raise ValueError("a cluster has the database 0 only")
    database = path[1] if form == "sentinel" and len(path) > 1 else "0"
    if not database.isdecimal():
        raise ValueError(f"the database must be a number, not {database!r}")
    return RedisAddress(
        form,
        url,
        tls,
        tuple(_host(host) for host in hosts.split(",")),
        unquote(username) or None,
        unquote(password) or None,
        path[0] if form == "sentinel" else "",
        int(database),
    )


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{text!r} is no host:port")
    return host.strip("[]"), int(port)
