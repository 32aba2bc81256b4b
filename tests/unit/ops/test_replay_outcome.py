"""What several processes found, counted together."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from ops.replay.comparison import Difference
from ops.replay.outcome import Outcome

CHANGES = st.dictionaries(st.sampled_from(["escalated", "events"]), st.tuples(st.booleans(), st.booleans()))
KINDS = st.sampled_from(["same", "created", "changed", "removed", "ahead", "expired", "not_retained"])
DIFFERENCES = st.builds(Difference, st.sampled_from(["s-1", "s-2"]), KINDS, CHANGES)


@given(st.lists(st.lists(DIFFERENCES, max_size=15), max_size=5))
def test_found_in_parts_or_by_one_it_is_the_same(parts: list[list[Difference]]) -> None:
    whole, together = Outcome(), Outcome()
    for part in parts:
        found = Outcome(switched=len(part), removed=1)
        for difference in part:
            whole.add(difference)
            found.add(difference)
        together.take_in(pickle.loads(pickle.dumps(found)))
    assert (together.switched, together.removed) == (sum(map(len, parts)), len(parts))
    assert (together.kinds, together.fields) == (whole.kinds, whole.fields)
    assert (together.first, together.more) == (whole.first, whole.more)
    assert together.differs == whole.differs


def test_what_only_the_whole_run_knows_stays() -> None:
    outcome = Outcome(snapshots=3, records=5, seconds_reading=0.5, resumed_at=7, unreadable=1, executed=True)
    outcome.take_in(Outcome(switched=2))
    assert outcome == Outcome(
        snapshots=3, records=5, seconds_reading=0.5, resumed_at=7, unreadable=1, switched=2, executed=True
    )
