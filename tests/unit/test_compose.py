"""compose.yaml is valid by the Compose specification and starts the right things in the right order."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

COMPOSE_FILE = Path(__file__).parents[2] / "compose.yaml"
OURS = ("topics", "knowledge", "worker", "ingress")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """The Compose specification's schema, as the package check-jsonschema carries it."""
    schema = resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
    content = json.loads(schema.read_text(encoding="utf-8"))
    assert content["$schema"] == Draft202012Validator.META_SCHEMA["$schema"]
    return Draft202012Validator(content)


def test_it_is_valid_by_the_compose_specification(compose: dict[str, Any], validator: Draft202012Validator) -> None:
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(compose)] == []


def test_the_schema_notices_a_mistake(validator: Draft202012Validator) -> None:
    assert not validator.is_valid({"services": {"worker": {"imagge": "supportstream-worker"}}})


@pytest.mark.parametrize("service", ["ingress", "worker"])
def test_two_of_each_run(compose: dict[str, Any], service: str) -> None:
    assert compose["services"][service]["deploy"]["replicas"] == 2


def test_each_ingress_replica_has_a_port(compose: dict[str, Any]) -> None:
    [port] = compose["services"]["ingress"]["ports"]
    first, last = port.split(":")[1].split("-")
    assert int(last) - int(first) + 1 == compose["services"]["ingress"]["deploy"]["replicas"]


def test_nothing_runs_as_root(compose: dict[str, Any]) -> None:
    users = {name: str(service.get("user", "root")) for name, service in compose["services"].items()}
    assert not [name for name, user in users.items() if user.split(":")[0] in ("root", "0")]


def test_topics_exist_before_anything_uses_them(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["topics"]["command"] == ["supportstream", "topics", "create"]
    assert services["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    for name in ("ingress", "worker", "knowledge"):
        assert services[name]["depends_on"]["topics"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("service", OURS)
def test_there_is_no_default_token_secret(compose: dict[str, Any], service: str) -> None:
    assert compose["services"][service]["environment"]["TOKEN_SECRET"].startswith("${TOKEN_SECRET:?")


@pytest.mark.parametrize("service", OURS)
def test_it_runs_in_production_on_real_kafka_and_redis(compose: dict[str, Any], service: str) -> None:
    environment = compose["services"][service]["environment"]
    assert environment["ENVIRONMENT"] == "production"
    assert environment["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
    assert environment["SESSION_STORE_TYPE"] == "redis"
    assert environment["REDIS_URL"].startswith("redis://redis:")


@pytest.mark.parametrize("service", ["kafka", "redis", "worker", "ingress"])
def test_what_stays_up_is_checked_and_restarted(compose: dict[str, Any], service: str) -> None:
    assert compose["services"][service]["healthcheck"]["test"]
    assert compose["services"][service]["restart"] == "unless-stopped"


def test_images_are_built_from_targets_of_the_dockerfile(compose: dict[str, Any]) -> None:
    dockerfile = (COMPOSE_FILE.parent / "Dockerfile").read_text(encoding="utf-8")
    for name in OURS:
        target = compose["services"][name]["build"]["target"]
        assert f" AS {target}\n" in dockerfile
