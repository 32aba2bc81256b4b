"""FAILS on main on every Redis: a session of some thousands of turns can't be put back; Lua unpacks 8,000 values at most."""

from tests.contract.conftest import *  # noqa
from tests.contract.test_earlier_ids import NOW, is_remembered, restore
from tests.contract.sessions import session


async def test_a_session_of_many_turns_is_put_back_with_all_its_ids(store):
    after = session(seq=5_032)
    await restore(store, after, *((f"m{n}", NOW + n) for n in range(5_000)))
    assert await is_remembered(store, after, "m0")
