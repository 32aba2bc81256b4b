"""Settings: a wrong, unknown or contradictory one is an error at start that names it."""

from pathlib import Path

import pytest

from ops.errors import UsageError
from ops.settings import Settings, load_settings

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting from this machine, and no `.env`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def refused(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    with pytest.raises(UsageError) as raised:
        load(monkeypatch, **environment)
    assert "\n" not in str(raised.value), "one line"
    return str(raised.value)


def test_without_any_setting_the_defaults_are_for_development() -> None:
    settings = load_settings()
    assert (settings.environment, settings.store_type, settings.topic_partitions) == ("development", "in_memory", 12)
    assert settings.cors_origins == ()
    assert settings.kafka_bootstrap_servers is None


def test_the_environment_sets_them_and_empty_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, TOPIC_PARTITIONS="24", REDIS_URL="redis://r:1/0", API_PORT="")
    assert (settings.topic_partitions, settings.store_type, settings.api_port) == (24, "redis", 8000)


def test_a_dot_env_file_sets_them_and_the_environment_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("TOPIC_PARTITIONS=3\nAPI_PORT=9000\n")
    settings = load(monkeypatch, API_PORT="9001")
    assert (settings.topic_partitions, settings.api_port) == (3, 9001)


def test_overrides_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "9001")
    assert load_settings(api_port=9002).api_port == 9002


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, CORS_ORIGINS="https://a.example, http://b.example:8080,", EXTRA_INBOUND_TOPICS="x,y")
    assert settings.cors_origins == ("https://a.example", "http://b.example:8080")
    assert settings.extra_inbound_topics == ("x", "y")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOPIC_PARTITIONS", "0"),
        ("TOPIC_PARTITIONS", "twelve"),
        ("API_PORT", "70000"),
        ("API_PREFIX", "api"),
        ("API_PREFIX", "/api/"),
        ("SESSION_STORE_TYPE", "memcached"),
        ("SESSION_LOCK_TIMEOUT_SECONDS", "0"),
        ("REDIS_MAX_CONNECTIONS", "-1"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("ORDERING", "none"),
        ("GENERATOR", "oracle"),
        ("DEBUG", "perhaps"),
        ("TOPIC_PREFIX", "with space."),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://*.shop.example"),
        ("CORS_ORIGINS", "https://shop.example/"),
        ("CORS_ORIGINS", "shop.example"),
        ("CORS_ORIGINS", "file://x"),
        ("TRUSTED_PROXIES", "*"),
        ("TRUSTED_PROXIES", "proxy.example"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.1/8"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis+sentinel://one:26379"),
        ("REDIS_WAIT_REPLICAS", "-1"),
        ("REDIS_SSL_CA_FILE", "nowhere.pem"),
        ("REDLOCK_URLS", "one:6379"),
        ("REDLOCK_URLS", "redis://one:6379,redis://one:6379"),
        ("SESSION_ENCRYPTION_KEY", "secret"),
        ("SESSION_ENCRYPTION_KEY", ","),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert refused(monkeypatch, **{name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"SESSION_STORE_TYPE": "redis"}, ["REDIS_URL"]),
        ({"ORDERING": "lock", "SESSION_LOCKING_ENABLED": "false"}, ["ORDERING", "SESSION_LOCKING_ENABLED"]),
        ({"SESSION_FINGERPRINT_STRICT": "true"}, ["SESSION_FINGERPRINT_STRICT", "SESSION_FINGERPRINTING_ENABLED"]),
        ({"REDIS_WAIT_REPLICAS": "1", "REDIS_URL": "redis+cluster://one:6379"}, ["REDIS_WAIT_REPLICAS", "cluster"]),
        (
            {"ENVIRONMENT": "production", "TOKEN_SECRET": SECRET, "SESSION_ENCRYPTION_ENABLED": "true"},
            ["SESSION_ENCRYPTION_KEY", "supportstream keys generate"],
        ),
        ({"SESSION_STORE_TYPE": "in_memory", "REDIS_URL": "redis://r"}, ["REDIS_URL", "SESSION_STORE_TYPE"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, ["KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_USERNAME": "u"}, ["KAFKA_SASL_PASSWORD"]),
        ({"ENVIRONMENT": "production"}, ["TOKEN_SECRET"]),
        ({"ENVIRONMENT": "production", "TOKEN_SECRET": SECRET, "DEBUG": "true"}, ["DEBUG"]),
        ({"TOKEN_SECRET": "short"}, ["TOKEN_SECRET", "32"]),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], names: list[str]
) -> None:
    message = refused(monkeypatch, **environment)
    assert all(name in message for name in names)


@pytest.mark.parametrize(
    ("enabled", "strict", "mode"), [("false", "false", "off"), ("true", "false", "lenient"), ("true", "true", "strict")]
)
def test_fingerprinting_is_off_lenient_or_strict(
    monkeypatch: pytest.MonkeyPatch, enabled: str, strict: str, mode: str
) -> None:
    assert load_settings().fingerprinting == "off"
    settings = load(monkeypatch, SESSION_FINGERPRINTING_ENABLED=enabled, SESSION_FINGERPRINT_STRICT=strict)
    assert settings.fingerprinting == mode


def test_a_refusal_does_not_repeat_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, TOKEN_SECRET="CANARY", REDIS_URL="redis://:CANARY@r", DEBUG="CANARY")
    assert "CANARY" not in message


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, TOKEN_SECRET="CANARY" * 8, REDIS_URL="redis://:CANARY@r", KAFKA_SASL_PASSWORD="CANARY")
    assert "CANARY" not in repr(settings)
    assert "CANARY" not in settings.model_dump_json()


def test_an_unknown_session_setting_is_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, SESSION_L1_CACHE_SIZ="5")
    assert message == "SESSION_L1_CACHE_SIZ is not a setting; did you mean SESSION_L1_CACHE_SIZE?"


@pytest.mark.parametrize(
    "name", ["REDIS_SOCKET_TIMEOUTS", "KAFKA_BOOTSTRAP_SERVER", "TOPIC_PARTITION", "TRUSTED_PROXY"]
)
def test_any_other_setting_that_is_misspelt_is_refused_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """DESIGN §7: never a silent default."""
    assert "did you mean" in refused(monkeypatch, **{name: "1"})


def test_an_unknown_name_in_dot_env_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TOPIC_PARTITION=3\n")
    assert refused(monkeypatch) == "TOPIC_PARTITION: is not a setting; did you mean TOPIC_PARTITIONS?"


def test_in_development_a_signing_secret_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(load_settings().signing_secret()) >= 32
    assert load(monkeypatch, TOKEN_SECRET=SECRET).signing_secret() == SECRET


KEY = "A" * 43 + "="
ENCRYPTED = {"SESSION_ENCRYPTION_ENABLED": "true", "SESSION_ENCRYPTION_KEY": KEY, "REDIS_URL": "redis://redis:6379"}


def test_topics_are_encrypted_in_production_where_sessions_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load(monkeypatch, **ENCRYPTED).seals_topics
    assert load(monkeypatch, ENVIRONMENT="production", TOKEN_SECRET=SECRET).seals_topics
    assert not load(monkeypatch, TOPIC_ENCRYPTION_ENABLED="false").seals_topics
    assert load(monkeypatch, ENVIRONMENT="development", TOPIC_ENCRYPTION_ENABLED="true").seals_topics


@pytest.mark.parametrize("missing", sorted(ENCRYPTED))
def test_encrypted_topics_need_a_key_and_a_redis(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    given = {name: value for name, value in ENCRYPTED.items() if name != missing}
    assert missing in refused(monkeypatch, TOPIC_ENCRYPTION_ENABLED="true", **given)
