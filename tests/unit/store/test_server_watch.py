"""Another server is noticed, once, and stays noticed until it is accepted."""

import pytest

from store.errors import StoreReplaced
from store.redis.server_watch import ServerWatch


def test_the_first_server_is_the_known_one() -> None:
    watch = ServerWatch(strict=True)
    watch.check()
    watch.seen("one")
    watch.check()


def test_another_server_is_refused_until_it_is_accepted() -> None:
    watch = ServerWatch(strict=True)
    watch.seen("one")
    watch.seen("two")
    for _ in range(2):
        with pytest.raises(StoreReplaced):
            watch.check()
    watch.accept()
    watch.check()
    watch.seen("one")
    with pytest.raises(StoreReplaced):
        watch.check()


def test_a_server_that_comes_back_as_it_was_is_the_known_one_again() -> None:
    watch = ServerWatch(strict=True)
    for server in ("one", "two", "one"):
        watch.seen(server)
    watch.check()


def test_who_only_reads_need_not_care() -> None:
    watch = ServerWatch(strict=False)
    watch.seen("one")
    watch.seen("two")
    watch.check()


def test_who_is_still_connected_to_an_earlier_server_is_told() -> None:
    """Several links share a watch: one that noticed nothing must not go on writing to a master that was replaced."""
    watch = ServerWatch(strict=True)
    watch.seen("one")
    assert watch.is_newest("one")
    watch.seen("two")
    watch.accept()
    assert not watch.is_newest("one")
    assert watch.is_newest("two")
