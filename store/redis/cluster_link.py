"""The link to a Redis Cluster: redis-py's own pipeline, which knows the slots and follows them when they move."""

import time
from typing import Any

from redis.asyncio import RedisCluster

from store.redis.round_trips import Command
from store.redis.server_watch import ServerWatch

SERVERS_CHECK_SECONDS = 1.0


class ClusterLink:
    """Keeps the promises of `store.redis.round_trips.Link`. Each master's run id is asked for once a second; a master
    that is added is no loss, one that is gone is."""

    def __init__(self, client: RedisCluster, *, watch: ServerWatch) -> None:
        self._client = client
        self._watch = watch
        self._watched: frozenset[str] = frozenset()
        self._checked_at = 0.0

    async def exchange(self, commands: list[Command]) -> list[Any]:
        try:
            return await self._exchange(commands)
        except BaseException:
            # The client connects anew by itself; before anything is sent again, the servers are looked at.
            self._checked_at = 0.0
            raise

    async def _exchange(self, commands: list[Command]) -> list[Any]:
        await self._look_at_servers()
        self._watch.check()
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        responses: list[Any] = await pipeline.execute(raise_on_error=False)
        return responses

    async def load_scripts(self, texts: list[str]) -> None:
        for text in texts:
            await self._client.script_load(text)

    def accept_server(self) -> None:
        self._watch.accept()

    @property
    def server(self) -> str:
        return self._watch.newest

    async def close(self) -> None:
        """The client is its owner's to close."""

    async def _look_at_servers(self) -> None:
        if time.monotonic() < self._checked_at + SERVERS_CHECK_SECONDS:
            return
        infos: dict[str, dict[str, str]] = await self._client.info("server", target_nodes=RedisCluster.PRIMARIES)
        servers = frozenset(str(info["run_id"]) for info in infos.values())
        # As long as all those before are among them, nothing was lost, and the same mark stands for more servers.
        if not self._watched or not self._watched <= servers:
            self._watched = servers
        self._watch.seen(self._watched)
        self._checked_at = time.monotonic()
