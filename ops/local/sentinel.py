"""One sentinel of a Redis master, as a child process."""

from pathlib import Path

from ops.local.ports import LOOPBACK
from ops.local.redis import RedisServer, find_redis_server
from ops.local.redis_call import call

MASTER_NAME = "supportstream"

_DOWN_AFTER_MS = 1_000
_FAILOVER_TIMEOUT_MS = 3_000


class Sentinel(RedisServer):
    """A redis-server in sentinel mode. It writes what it learns into its configuration, and goes on from there."""

    def __init__(self, directory: Path, *, port: int, quorum: int) -> None:
        """`quorum` sentinels have to miss the master before one of them fails over."""
        super().__init__(directory, port=port)
        self._quorum = quorum
        self._config = directory / "sentinel.conf"

    def watch(self, master_port: int) -> None:
        """Make it forget everything but the master's address; before `start`."""
        self._config.parent.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            f"bind {LOOPBACK}\n"
            f"port {self.port}\n"
            f'dir "{self._directory.resolve()}"\n'
            f"sentinel monitor {MASTER_NAME} {LOOPBACK} {master_port} {self._quorum}\n"
            f"sentinel down-after-milliseconds {MASTER_NAME} {_DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER_NAME} {_FAILOVER_TIMEOUT_MS}\n",
            encoding="utf-8",
        )

    def master_port(self) -> int | None:
        """Of the server that clients are sent to; None while this sentinel takes it for dead."""
        # GET-MASTER-ADDR-BY-NAME would name the successor before the sentinel is done, and redis-py asks for this.
        master = _pairs(call(self.port, "SENTINEL", "MASTER", MASTER_NAME))
        return int(master["port"]) if master["flags"] == "master" else None

    def knows(self, replicas: int, sentinels: int) -> bool:
        """Whether it sees so many replicas in sync, and so many living sentinels with itself."""
        others = [sentinel["flags"] for sentinel in self._list("SENTINELS")]
        in_sync = [(replica["flags"], replica["master-link-status"]) for replica in self._list("REPLICAS")]
        # Any further flag says that one is down, or not connected yet.
        return in_sync == [("slave", "ok")] * replicas and others == ["sentinel"] * (sentinels - 1)

    def _list(self, kind: str) -> list[dict[str, str]]:
        listed: list[list[str]] = call(self.port, "SENTINEL", kind, MASTER_NAME)
        return [_pairs(fields) for fields in listed]

    def _command(self) -> list[str]:
        return [find_redis_server(), str(self._config.resolve()), "--sentinel"]


def _pairs(fields: list[str]) -> dict[str, str]:
    return dict(zip(fields[::2], fields[1::2], strict=True))
