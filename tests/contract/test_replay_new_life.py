"""FAILS on main: the ids of an earlier life stay in the working copy when a session is folded into a new one."""

from tests.contract.test_working_copy import *  # noqa
from tests.contract.conftest import *  # noqa
from tests.conftest import *  # noqa


async def test_folding_into_a_new_life_forgets_the_ids_of_the_one_before(new_copy, live):
    copy = new_copy()
    first = await rebuilt_with(copy, live_session(seq=40), "earlier life")
    reborn = live_session(seq=1, version=42, epoch=2_000)
    assert await copy.write(
        [
            Step(
                Folded(first, f"event-{first.session_id}-{first.version}"),
                Folded(reborn, "e"),
                [reply_of(reborn)],
                anew=True,
            )
        ]
    ) == [True]
    assert await copy.switch([(reborn, 60.0)]) == 1
    after = live_session(seq=2, version=43, epoch=2_000)
    outcome = await live.commit_turn(
        after,
        expected_version=42,
        event_id="x",
        fence=Fence("partition", 1),
        reply=reply_of(after),
        answers="earlier life",
    )
    assert outcome == Applied()
