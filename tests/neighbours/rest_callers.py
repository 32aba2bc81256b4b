"""Customers who ask over REST, one question after the other, and ask again while they are told to."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import httpx

from tests.customers import message_id
from tests.processes import Process

_TRY_AGAIN = 503
_ANSWERED_WITHIN_S = 60.0


@dataclass
class RestCallers:
    """`count` sessions that ask at once. Every status is kept; 503 says to try again, which they do."""

    ingress: Process
    count: int = 8
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """Answers that no client can make anything of."""
    ids: list[str] = field(default_factory=list)
    """Of every message."""
    _tokens: dict[str, str] = field(default_factory=dict)
    _tasks: "list[asyncio.Task[None]]" = field(default_factory=list)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self) -> None:
        """Each opens its session; no fault may meet that."""
        async with self._client() as client:
            for _ in range(self.count):
                response = await client.post("/api/v1/sessions", json={})
                assert response.status_code == 201, response.text
                self._tokens[response.headers["location"].rpartition("/")[2]] = response.json()["token"]

    async def ask_once(self) -> None:
        """Each asks one question; returns when all were answered."""
        async with self._client() as client:
            await asyncio.gather(*(self._ask(client, session_id) for session_id in self._tokens))

    async def start(self) -> None:
        """They ask until they are stopped."""
        self._stopped.clear()
        self._tasks = [asyncio.create_task(self._converse(session_id)) for session_id in self._tokens]

    async def stop(self) -> None:
        """Returns when the last questions were answered."""
        self._stopped.set()
        await asyncio.gather(*self._tasks)

    def raise_what_failed(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.ingress.url, timeout=_ANSWERED_WITHIN_S)

    async def _converse(self, session_id: str) -> None:
        async with self._client() as client:
            while not self._stopped.is_set():
                await self._ask(client, session_id)

    async def _ask(self, client: httpx.AsyncClient, session_id: str) -> None:
        id = message_id()
        self.ids.append(id)
        body = {"session_id": session_id, "id": id, "text": f"Is anybody there? This is {id}.", "wait": 30}
        headers = {"authorization": f"Bearer {self._tokens[session_id]}"}
        async with asyncio.timeout(_ANSWERED_WITHIN_S):
            while True:
                response = await client.post("/api/v1/chat", json=body, headers=headers)
                self.statuses[response.status_code] += 1
                if response.status_code == 200:
                    return
                if response.status_code not in (_TRY_AGAIN, 202):
                    self.faults.append(f"{response.status_code} {response.text}")
                await asyncio.sleep(0.1)
