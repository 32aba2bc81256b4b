"""Redlock over five real servers: one holder, as long as a majority answers (`store.redlock`)."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from ops.local.ports import free_port
from ops.local.redis import RedisServer
from ops.local.redis_call import call
from store.errors import LockError, LockLost, LocksUnavailable, LockTimeout, StoreUnavailable
from store.locking import LockSettings
from store.protocol import Applied, CommitOutcome, Fenced
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from tests.contract.sessions import commit, session
from tests.polling import eventually

NODES = 5
LEASE_S = 1.5
NODE_TIMEOUT_S = 0.3
DEADLINE_S = 5.0
BRIEF = LockSettings(LEASE_S, retry_attempts=1, node_timeout_seconds=NODE_TIMEOUT_S)
IMPATIENT = LockSettings(0.5, retry_attempts=1, node_timeout_seconds=0.2)
PATIENT = LockSettings(LEASE_S, retry_attempts=20, node_timeout_seconds=NODE_TIMEOUT_S)


@dataclass
class Nodes:
    """The lock's servers, and stores whose locks are on them. Methods block."""

    servers: list[RedisServer]
    url: str
    """Of the Redis that has the sessions."""
    prefix: str
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def store(self, settings: LockSettings = BRIEF) -> RedisSessionStore:
        """Each has connections of its own, as each process has."""
        nodes = [connect(RedisSettings(server.url, socket_timeout=1.0)) for server in self.servers]
        for node in nodes:
            self.stack.push_async_callback(node.close)
        made = RedisSessionStore(
            connect(RedisSettings(self.url)),
            ttl_seconds=60,
            key_prefix=self.prefix,
            lock=settings,
            lock_nodes=[node.client for node in nodes],
        )
        self.stack.push_async_callback(made.close)
        return made

    def kill(self, *numbers: int) -> None:
        for number in numbers:
            self.servers[number].server.kill()

    def restart_empty(self, *numbers: int) -> None:
        self.kill(*numbers)
        for number in numbers:
            self.servers[number].start()

    @contextmanager
    def paused(self, *numbers: int) -> Iterator[None]:
        """They hang (SIGSTOP) inside the block."""
        for number in numbers:
            self.servers[number].server.pause()
        try:
            yield
        finally:
            for number in numbers:
                self.servers[number].server.resume()

    def key(self, session_id: str) -> str:
        return f"{self.prefix}{{{session_id}}}:lock"

    def tokens(self, session_id: str) -> list[str | None]:
        """Whose lock each node has; None: nobody's."""
        return [call(server.port, "GET", self.key(session_id)) for server in self.servers]

    def forget(self, session_id: str, *numbers: int) -> None:
        """As if the lease had ended there."""
        for number in numbers:
            call(self.servers[number].port, "DEL", self.key(session_id))

    def all_well(self) -> None:
        """Every one runs and holds nothing."""
        for server in self.servers:
            if not server.server.running:
                server.start()
            call(server.port, "FLUSHALL")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with ExitStack() as started:
        yield [started.enter_context(RedisServer(tmp_path_factory.mktemp("node"))) for _ in range(NODES)]


@pytest.fixture
async def nodes(servers: list[RedisServer], redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Nodes]:
    made = Nodes(servers, redis_server.url, redis_prefix)
    await asyncio.to_thread(made.all_well)
    async with made.stack:
        yield made


async def assert_taken(nodes: Nodes) -> None:
    """Somebody else, with a little patience, does not get it."""
    with pytest.raises(LockTimeout, match="s1"):
        async with nodes.store(IMPATIENT).lock("s1"):
            pytest.fail("the lock was given twice")


async def assert_free(nodes: Nodes) -> None:
    async with nodes.store(PATIENT).lock("s1"):
        pass


async def test_a_lock_is_on_every_node_while_it_is_held_and_on_none_afterwards(nodes: Nodes) -> None:
    async with nodes.store().lock("s1") as fence:
        assert fence.kind == "lock"
        [token] = set(nodes.tokens("s1"))
        assert token is not None
        for server in nodes.servers:
            assert 0 < call(server.port, "PTTL", nodes.key("s1")) <= LEASE_S * 1000
    assert nodes.tokens("s1") == [None] * NODES


async def test_a_minority_that_is_dead_holds_nobody_up(nodes: Nodes) -> None:
    """P, O"""
    nodes.kill(0, 3)
    store = nodes.store()
    await store.test_locks()
    async with store.lock("s1"):
        await assert_taken(nodes)
    await assert_free(nodes)


async def test_without_a_majority_there_are_no_locks(nodes: Nodes) -> None:
    """O: rather none than two; and what a living node gave is given back."""
    store = nodes.store()
    nodes.kill(0, 2, 4)
    for _ in range(2):
        with pytest.raises(LocksUnavailable, match=r"2 of 5 lock nodes answer; 3 are needed"):
            async with store.lock("s1"):
                pytest.fail("a lock of a minority")
    with pytest.raises(LocksUnavailable):
        await store.test_locks()
    assert issubclass(LocksUnavailable, StoreUnavailable), "waited for, as a Redis that is away"
    assert issubclass(LocksUnavailable, LockError)
    assert [call(nodes.servers[number].port, "GET", nodes.key("s1")) for number in (1, 3)] == [None, None]
    assert store.describe_locks()["active"] == 0
    await asyncio.to_thread(nodes.all_well)
    async with store.lock("s1"):
        pass


async def test_of_many_who_want_a_lock_one_has_it_at_a_time(nodes: Nodes) -> None:
    """O: over several processes' worth of clients, with a node that dies and one that hangs in the middle."""
    stores = [nodes.store(PATIENT) for _ in range(3)]
    inside: list[str] = []
    tokens: list[int] = []

    async def hold(store: RedisSessionStore, name: str) -> None:
        for _ in range(3):
            async with store.lock("s1") as fence:
                inside.append(name)
                await asyncio.sleep(0.001)
                assert inside == [name], "two hold one lock"
                tokens.append(fence.token)
                inside.remove(name)

    async def trouble() -> None:
        await eventually(lambda: enough(3), "some had it")
        nodes.kill(4)
        await eventually(lambda: enough(9), "others go on")
        with nodes.paused(1):
            await eventually(lambda: enough(12), "others go on")

    async def enough(count: int) -> bool:
        return len(tokens) >= count

    holders = [hold(store, f"{n}.{m}") for n, store in enumerate(stores) for m in range(2)]
    await asyncio.gather(trouble(), *holders)
    assert len(tokens) == 18
    assert tokens == sorted(set(tokens)), "whoever has it later has a larger token"


async def test_a_lock_that_stays_taken_is_waited_for_as_long_as_was_set(nodes: Nodes) -> None:
    async with nodes.store().lock("s1"):
        begun = time.monotonic()
        with pytest.raises(LockTimeout, match=r"s1 was not free in 0\.5 s"):
            async with nodes.store(IMPATIENT).lock("s1"):
                pytest.fail("the lock was given twice")
        assert IMPATIENT.patience_seconds <= time.monotonic() - begun < DEADLINE_S
        async with nodes.store(IMPATIENT).lock("s2"):
            pass


async def test_a_lock_is_renewed_on_all_nodes_while_it_is_held(nodes: Nodes) -> None:
    """O, P: a long turn keeps its lock, though a minority is dead."""
    nodes.kill(2)
    living = [server for number, server in enumerate(nodes.servers) if number != 2]
    async with nodes.store().lock("s1"):
        [token] = {call(server.port, "GET", nodes.key("s1")) for server in living}
        ends = time.monotonic() + 2.5 * LEASE_S
        while time.monotonic() < ends:
            assert {call(server.port, "GET", nodes.key("s1")) for server in living} == {token}
            await asyncio.sleep(LEASE_S / 20)
        await assert_taken(nodes)
    await assert_free(nodes)


async def test_health_tells_how_many_are_held_and_for_how_long(nodes: Nodes) -> None:
    store = nodes.store()
    nothing = {"enabled": True, "active": 0, "oldest_seconds": 0.0, "nodes": 5, "quorum": 3}
    assert store.describe_locks() == nothing
    async with store.lock("s1"):
        await eventually(lambda: older_than(store, 0.2), "it grows old")
        async with store.lock("s2"):
            assert store.describe_locks()["active"] == 2
            assert store.describe_locks()["oldest_seconds"] > 0.2
        assert store.describe_locks()["active"] == 1
    assert store.describe_locks() == nothing


async def older_than(store: RedisSessionStore, seconds: float) -> bool:
    return store.describe_locks()["oldest_seconds"] > seconds


async def test_a_lock_that_was_lost_and_the_one_that_followed_are_counted_apart(nodes: Nodes) -> None:
    store = nodes.store()
    first, second = store.lock("s1"), store.lock("s1")
    await first.__aenter__()
    nodes.forget("s1", *range(NODES))
    await second.__aenter__()
    with pytest.raises(LockLost):
        await first.__aexit__(None, None, None)
    assert store.describe_locks()["active"] == 1
    await second.__aexit__(None, None, None)
    assert store.describe_locks()["active"] == 0


async def test_trying_the_locks_out_leaves_nothing_behind(nodes: Nodes) -> None:
    await nodes.store().test_locks()
    assert [call(server.port, "DBSIZE") for server in nodes.servers] == [0] * NODES


async def test_nodes_that_hang_cost_bounded_time(nodes: Nodes) -> None:
    """P: each is waited for as long as was set, all at once, and no longer."""
    store = nodes.store()
    await store.test_locks()
    with nodes.paused(1, 4):
        begun = time.monotonic()
        async with store.lock("s1"):
            assert time.monotonic() - begun < DEADLINE_S
            await assert_taken(nodes)
        assert time.monotonic() - begun < DEADLINE_S


async def test_a_node_that_hangs_does_not_make_those_wait_who_want_other_locks(nodes: Nodes) -> None:
    """P: many at once, each held until all are held; nobody's lease ends while others wait for the node."""
    many = 80
    store = nodes.store(LockSettings(lease_seconds=2.0, retry_attempts=5, node_timeout_seconds=0.5))
    await store.test_locks()
    all_held = asyncio.Event()

    async def hold(session_id: str) -> None:
        async with store.lock(session_id):
            if store.describe_locks()["active"] == many:
                all_held.set()
            await asyncio.wait_for(all_held.wait(), 2 * DEADLINE_S)

    with nodes.paused(2):
        await asyncio.gather(*(hold(f"s{n}") for n in range(many)))


async def test_a_majority_that_hangs_is_told_in_bounded_time_and_what_it_does_late_ends_with_the_lease(
    nodes: Nodes,
) -> None:
    """P, O: once they go on, they take the lock for somebody who gave up long ago."""
    store = nodes.store(PATIENT)
    await store.test_locks()
    with nodes.paused(0, 1, 2):
        begun = time.monotonic()
        with pytest.raises(LocksUnavailable, match="2 of 5"):
            async with store.lock("s1"):
                pytest.fail("a lock of a minority")
        assert time.monotonic() - begun < DEADLINE_S
    begun = time.monotonic()
    async with store.lock("s1"):
        assert time.monotonic() - begun < LEASE_S + DEADLINE_S


async def test_a_holder_keeps_its_lock_over_a_hang_that_is_shorter_than_its_lease(nodes: Nodes) -> None:
    """P: not renewed in time once, but before it ended."""
    store = nodes.store(LockSettings(lease_seconds=6.0, node_timeout_seconds=NODE_TIMEOUT_S))
    async with store.lock("s1"):
        [token] = set(nodes.tokens("s1"))
        with nodes.paused(0, 1, 2):
            # Longer than until the next renewal, which comes at a third of the lease.
            await eventually(lambda: older_than(store, 2.5), "it was to be renewed")
        await eventually(lambda: renewed(nodes, 5.0), "it was renewed")
        assert set(nodes.tokens("s1")) == {token}


async def renewed(nodes: Nodes, seconds: float) -> bool:
    return all(call(server.port, "PTTL", nodes.key("s1")) > seconds * 1000 for server in nodes.servers)


async def test_a_holder_that_cannot_renew_is_told_that_its_lease_ended(nodes: Nodes) -> None:
    """O"""
    store = nodes.store()

    async def held_too_long() -> None:
        async with store.lock("s1"):
            nodes.kill(0, 1, 2)
            await eventually(lambda: older_than(store, 1.1 * LEASE_S), "the lease is over")

    with pytest.raises(LockLost, match="s1"):
        await held_too_long()
    await asyncio.to_thread(nodes.all_well)
    await assert_free(nodes)


async def test_a_lock_is_given_back_by_its_holder_only(nodes: Nodes) -> None:
    """O: whoever lost it leaves a later holder's alone, on each node."""
    first, second = nodes.store(), nodes.store()
    lost, held = first.lock("s1"), second.lock("s1")
    await lost.__aenter__()
    nodes.forget("s1", *range(NODES))
    await held.__aenter__()
    [token] = set(nodes.tokens("s1"))
    with pytest.raises(LockLost):
        await lost.__aexit__(None, None, None)
    assert nodes.tokens("s1") == [token] * NODES
    await assert_taken(nodes)
    await held.__aexit__(None, None, None)
    assert nodes.tokens("s1") == [None] * NODES


async def test_a_lock_is_free_after_its_holder_failed_or_was_cancelled(nodes: Nodes) -> None:
    store = nodes.store()
    with pytest.raises(ZeroDivisionError):
        async with store.lock("s1"):
            raise ZeroDivisionError
    assert nodes.tokens("s1") == [None] * NODES

    async def hold() -> None:
        async with store.lock("s1"):
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await eventually(lambda: older_than(store, 0.0), "it is held")
    holder.cancel()
    await asyncio.wait([holder])
    assert nodes.tokens("s1") == [None] * NODES


async def test_nodes_that_come_back_empty_give_no_second_holder_a_majority(nodes: Nodes) -> None:
    """O: they forgot the lock, but three of five still have it."""
    store = nodes.store(LockSettings(lease_seconds=3.0, node_timeout_seconds=NODE_TIMEOUT_S))
    async with store.lock("s1") as fence:
        await asyncio.to_thread(nodes.restart_empty, 0, 1)
        await assert_taken(nodes)
        assert nodes.tokens("s1")[:2] == [None, None], "whoever got less than a majority gave it back"
        assert await commit(store, session(), kind="lock", token=fence.token) == Applied()
    await assert_free(nodes)


async def test_where_a_majority_comes_back_empty_the_fence_alone_keeps_the_first_holder_out(nodes: Nodes) -> None:
    """O: this is what no lock can help (decision 12)."""
    first, second = nodes.store(), nodes.store(PATIENT)
    refused: list[CommitOutcome] = []

    async def hold_over_the_restart() -> None:
        async with first.lock("s1") as early:
            await asyncio.to_thread(nodes.restart_empty, 0, 1, 2)
            async with second.lock("s1") as late:
                assert await commit(second, session(), kind="lock", token=late.token) == Applied()
            refused.append(await commit(first, session(seq=2), kind="lock", token=early.token))
            assert refused == [Fenced(late.token)]

    with pytest.raises(LockLost, match="s1"):
        await hold_over_the_restart()
    assert refused, "the first holder wrote nothing late"
    assert await second.get("s1") == session()


async def test_giving_a_lock_back_slowly_loses_nothing_that_was_held(nodes: Nodes) -> None:
    """P: a node hangs just when the lock is given back, for longer than the lease has left."""
    lock = nodes.store(LockSettings(lease_seconds=1.0, node_timeout_seconds=1.5)).lock("s1")
    await lock.__aenter__()
    with nodes.paused(3):
        await lock.__aexit__(None, None, None)


async def test_a_cluster_that_is_away_is_unavailable(redis_prefix: str) -> None:
    """L: redis-py has another error for it, which must not look like a turn's own failure."""
    connections = connect(RedisSettings(f"redis+cluster://127.0.0.1:{free_port()}", socket_connect_timeout=1.0))
    store = RedisSessionStore(connections, ttl_seconds=60, key_prefix=redis_prefix, lock=LockSettings())
    try:
        with pytest.raises(LocksUnavailable):
            async with store.lock("s1"):
                pytest.fail("a lock of nothing")
    finally:
        await store.close()


async def test_many_locks_at_once_need_few_connections(nodes: Nodes) -> None:
    """P: hundreds that connect at once are late for it, and healthy nodes count as not answering."""
    store = nodes.store(LockSettings(lease_seconds=5.0, node_timeout_seconds=2.0))

    async def hold(session_id: str) -> None:
        async with store.lock(session_id):
            pass

    async def few() -> bool:
        # The store keeps its own; those of earlier tests may go only now.
        return max(connected_clients(server) for server in nodes.servers) <= 20

    await asyncio.gather(*(hold(f"s{n}") for n in range(100)))
    await eventually(few, "few are connected", DEADLINE_S)


async def test_those_of_one_process_who_wait_for_a_lock_do_not_all_ask_for_it(nodes: Nodes) -> None:
    """P"""
    store = nodes.store(PATIENT)

    async def hold() -> None:
        async with store.lock("s1"):
            pass

    async with nodes.store().lock("s1"):
        before = commands(nodes.servers[0], "set")
        waiting = [asyncio.create_task(hold()) for _ in range(50)]
        await asyncio.wait(waiting, timeout=1.0)
        asked = commands(nodes.servers[0], "set") - before
    await asyncio.gather(*waiting)
    assert asked <= 110, "as often as one would have asked in that time"


async def test_many_who_want_locks_get_them_while_a_node_hangs(nodes: Nodes) -> None:
    """P: four nodes of five answer at once."""
    store = nodes.store(LockSettings(lease_seconds=2.0, retry_attempts=5, node_timeout_seconds=0.5))
    await store.test_locks()

    async def hold(session_id: str) -> None:
        async with store.lock(session_id):
            pass

    with nodes.paused(2):
        await asyncio.gather(*(hold(f"s{n}") for n in range(200)))


def connected_clients(server: RedisServer) -> int:
    return int(info(server, "clients")["connected_clients"])


def commands(server: RedisServer, name: str) -> int:
    """How often the command was called."""
    found = info(server, "commandstats").get(f"cmdstat_{name}", "calls=0")
    return int(found.partition(",")[0].removeprefix("calls="))


def info(server: RedisServer, section: str) -> dict[str, str]:
    lines: str = call(server.port, "INFO", section)
    return dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
