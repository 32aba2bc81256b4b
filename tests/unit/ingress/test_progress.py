"""Whether a reader reads what is there."""

from ingress.progress import Progress


def test_a_partition_without_records_is_quiet_until_its_end_is_seen() -> None:
    progress = Progress({0: 5, 1: 7}, now=100)
    assert progress.quiet_seconds(130) == 30
    progress.looked({0: 5, 1: 7}, {0: 5, 1: 7}, now=130)
    assert progress.quiet_seconds(131) == 1


def test_the_partition_that_is_quiet_for_longest_counts() -> None:
    progress = Progress({0: 5, 1: 7}, now=100)
    progress.read(0, 6, now=140)
    assert progress.quiet_seconds(140) == 40


def test_a_look_that_finds_unread_records_changes_nothing() -> None:
    progress = Progress({0: 5}, now=100)
    progress.looked({0: 5}, {0: 6}, now=130)
    assert progress.quiet_seconds(130) == 30
    assert progress.positions == {0: 5}
    assert progress.unread({0: 9}, 130, quiet_seconds=30) == {0: 4}


def test_transaction_markers_behind_the_last_record_are_passed() -> None:
    progress = Progress({0: 5}, now=100)
    progress.looked({0: 7}, {0: 7}, now=130)
    assert progress.positions == {0: 7}
    assert progress.unread({0: 7}, 200, quiet_seconds=30) == {}


def test_a_topic_that_was_created_again_is_not_behind() -> None:
    progress = Progress({0: 500}, now=0)
    assert progress.unread({0: 3}, 100, quiet_seconds=30) == {}
    progress.read(0, 1, now=100)
    assert progress.positions == {0: 1}
