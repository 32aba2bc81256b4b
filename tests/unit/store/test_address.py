"""REDIS_URL in its forms."""

import pytest

from store.redis.address import RedisAddress, parse_address


@pytest.mark.parametrize("url", ["redis://host:6379/0", "rediss://user:secret@host:6380/1", "unix:///run/redis.sock"])
def test_one_server_is_redis_py_s_own_url(url: str) -> None:
    assert parse_address(url) == RedisAddress("server", url, tls=url.startswith("rediss"))


def test_sentinels_know_a_master_by_name() -> None:
    url = "redis+sentinel://me:p%40ss@one:26379,two:26380,[::1]:26381/shop/3"
    assert parse_address(url) == RedisAddress(
        "sentinel",
        url,
        tls=False,
        hosts=(("one", 26379), ("two", 26380), ("::1", 26381)),
        username="me",
        password="p@ss",
        master_name="shop",
        database=3,
    )
    assert parse_address("rediss+sentinel://one:26379/shop").tls


def test_a_cluster_is_found_through_any_of_its_nodes() -> None:
    found = parse_address("rediss+cluster://:secret@one:6379,two:6379")
    assert (found.form, found.tls, found.hosts) == ("cluster", True, (("one", 6379), ("two", 6379)))
    assert (found.username, found.password) == (None, "secret")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:6379", "must begin with redis://"),
        ("http://localhost:6379", "must begin with redis://"),
        ("redis+sentinel://one:26379", "needs the master's name"),
        ("redis+sentinel://one:26379/shop/first", "must be a number"),
        ("redis+sentinel://one/shop", "no host:port"),
        ("redis+sentinel://one:26379,/shop", "no host:port"),
        ("redis+cluster://one:6379/1", "database 0 only"),
        ("redis+cluster://", "no host:port"),
    ],
)
def test_what_is_wrong_is_said(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_address(url)


def test_a_password_is_never_in_what_is_said() -> None:
    with pytest.raises(ValueError) as raised:
        parse_address("redis+sentinel://me:hunter2@one:26379")
    assert "hunter2" not in str(raised.value)
