"""What `topics grow` would do, and in which order."""

import pytest

from ops.errors import OpsError, UsageError
from ops.kafka.topics import TopicState
from ops.topic_growth import divided_by_session, plan_growth
from schemas.topics import TopicNames, topic_specs

NAMES = TopicNames()


def states(inbound: int = 12, replies: int = 12, deltas: int = 12, dlq: int = 12) -> list[TopicState]:
    counts = {NAMES.inbound: inbound, NAMES.replies: replies, NAMES.deltas: deltas, NAMES.dlq: dlq}
    return [TopicState(name, count, 3, {}) for name, count in counts.items()]


def test_the_inbound_topic_comes_last() -> None:
    plan = plan_growth(NAMES, states(), 24)
    assert [state.name for state in plan.steps] == [NAMES.replies, NAMES.deltas, NAMES.dlq, NAMES.inbound]
    assert plan.moving == pytest.approx(0.5, abs=0.02)


def test_what_broke_off_is_finished() -> None:
    plan = plan_growth(NAMES, states(replies=24, deltas=24), 24)
    assert [state.name for state in plan.steps] == [NAMES.dlq, NAMES.inbound]


def test_nothing_to_do_or_nothing_that_can_be_done() -> None:
    with pytest.raises(OpsError, match="All topics have 12 partitions"):
        plan_growth(NAMES, states(), 12)
    with pytest.raises(UsageError, match="Kafka takes none away"):
        plan_growth(NAMES, states(), 6)
    with pytest.raises(OpsError, match=r"support\.deltas\.v1 is missing"):
        plan_growth(NAMES, states(deltas=0), 24)


def test_what_is_compacted_stays_in_one_partition() -> None:
    """A newer record in another partition would never replace the older one."""
    specs = topic_specs(NAMES, 12)
    assert {spec.name for spec in specs if spec.cleanup == "compact"} == {NAMES.knowledge, NAMES.snapshots, NAMES.keys}
    assert all(spec.partitions == 1 for spec in specs if spec.cleanup == "compact")
    assert divided_by_session(NAMES, specs) == [spec for spec in specs if spec.cleanup == "delete"]
