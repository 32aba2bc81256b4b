"""A topic that was created again counts from 0, and nothing of the old one's offsets is taken for the new one's."""

import pytest

from schemas.incarnation import incarnation_key, parse_incarnation
from store.memory import MemorySessionStore
from tests.unit.workers.dispatch_rig import P0, Rig
from tests.unit.workers.fakes import TOPICS, until
from workers.incarnations import Incarnations

ANEW = f"{TOPICS.inbound}@1"


@pytest.fixture
def store() -> MemorySessionStore:
    return MemorySessionStore(ttl_seconds=60)


async def test_a_topic_has_its_own_name_until_it_is_created_again(store: MemorySessionStore) -> None:
    incarnations = Incarnations(store)
    await incarnations.learn([TOPICS.inbound])
    assert incarnations.name(TOPICS.inbound) == TOPICS.inbound
    await store.save_progress({incarnation_key(TOPICS.inbound): 1})
    await incarnations.learn([TOPICS.inbound])
    assert incarnations.name(TOPICS.inbound) == ANEW
    assert parse_incarnation(ANEW) == (TOPICS.inbound, 1)


async def test_a_store_that_forgot_the_number_learns_it_from_events(store: MemorySessionStore) -> None:
    incarnations = Incarnations(store)
    incarnations.seen(TOPICS.inbound)
    assert incarnations.numbers == {}
    incarnations.seen(ANEW)
    await incarnations.save()
    again = Incarnations(store)
    await again.learn([TOPICS.inbound])
    assert again.name(TOPICS.inbound) == ANEW


async def test_the_new_topics_records_are_none_of_the_old_ones(store: MemorySessionStore) -> None:
    """L: offset 0 was done in the old life, and is taken in the new one, under another source and another id."""
    await store.save_progress({str(P0): 7, incarnation_key(TOPICS.inbound): 1})
    rig = Rig(store)
    rig.consumer.produce(P0, "a")
    await rig.assign(P0)
    rig.feed(P0)
    await until(lambda: rig.turns.offsets == [0])
    assert rig.turns.started[0].source.topic == ANEW
    await rig.turns.end(0)
    await rig.dispatcher.commit()
    assert await store.progress([f"{ANEW}:0", str(P0)]) == {f"{ANEW}:0": 1, str(P0): 7}


async def test_a_life_that_only_the_reply_topic_remembers_is_gone_on_with(store: MemorySessionStore) -> None:
    """L: Redis was flushed. Under the first life's name the records would look done."""
    rig = Rig(store)
    rig.consumer.produce(P0, "a", "b")
    rig.consumer.committed = {P0: 1}
    rig.repair.on_run = lambda: rig.incarnations.seen(ANEW)
    await rig.assign(P0)
    assert rig.dispatcher.assignments[P0].log == ANEW
    assert await store.progress([f"{ANEW}:0", incarnation_key(TOPICS.inbound)]) == {
        f"{ANEW}:0": 1,
        incarnation_key(TOPICS.inbound): 1,
    }
