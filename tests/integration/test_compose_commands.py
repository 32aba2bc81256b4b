"""What compose.yaml starts, started as plain processes: the same commands with the same settings."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ops.local.ports import LOOPBACK, free_port
from ops.local.process import ServerProcess
from tests.polling import wait_until
from tests.processes import READY_WITHIN_S, SAMPLES, SUPPORTSTREAM, Pipeline, bare_environment, get, run_command

COMPOSE_FILE = Path(__file__).parents[2] / "compose.yaml"
SECRET = "a-secret-as-long-as-production-wants-it"
VARIABLE = re.compile(r"\$\{(\w+)(?::[-?][^}]*)?\}")


class ComposeFile:
    """compose.yaml on this machine: its hosts are the local servers, its ports are free ones."""

    def __init__(self, pipeline: Pipeline, content: dict[str, Any]) -> None:
        self._pipeline = pipeline
        self._services: dict[str, dict[str, Any]] = content["services"]

    def command(self, service: str) -> list[str]:
        command: list[str] = self._services[service]["command"]
        if command[0] == "sh":
            # sh -c "exec supportstream … /knowledge/*", with the folder that is mounted there.
            words = shlex.split(command[2].replace("/knowledge/*", " ".join(map(str, SAMPLES))))
            command = words[1:]
        assert command[0] == "supportstream"
        return command[1:]

    def environment(self, service: str) -> dict[str, str]:
        settings = {name: str(value) for name, value in self._services[service]["environment"].items()}
        settings = {name: VARIABLE.sub(self._variable, value) for name, value in settings.items()}
        settings["KAFKA_BOOTSTRAP_SERVERS"] = self._mapped(settings, "kafka:9092", self._pipeline.bootstrap_servers)
        settings["REDIS_URL"] = self._mapped(settings, "redis://redis:6379/0", self._pipeline.redis_url)
        # On shared servers it needs names of its own.
        own = {
            "TOPIC_PREFIX": self._pipeline.topics.prefix,
            "CONSUMER_GROUP": self._pipeline.group,
            "REDIS_SESSION_KEY_PREFIX": self._pipeline.key_prefix,
        }
        return {**bare_environment(), **settings, **own}

    def replicas(self, service: str) -> int:
        return int(self._services[service]["deploy"]["replicas"])

    @staticmethod
    def _mapped(settings: dict[str, str], host: str, address: str) -> str:
        assert host in settings.values(), f"compose.yaml no longer names {host}"
        return address

    @staticmethod
    def _variable(found: re.Match[str]) -> str:
        assert found[1] == "TOKEN_SECRET"
        return SECRET


@pytest.fixture(scope="module")
def compose(new_pipeline: Callable[..., Pipeline]) -> ComposeFile:
    return ComposeFile(new_pipeline(), yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def ingresses(compose: ComposeFile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The ports of the ingress replicas, once everything is ready, started in the order of `depends_on`."""
    directory: Path = tmp_path_factory.mktemp("compose")
    for service in ("topics", "knowledge"):
        done = run_command(tuple(compose.command(service)), compose.environment(service), directory)
        assert done.returncode == 0, done.stdout + done.stderr
    servers: list[tuple[ServerProcess, int]] = []
    ports: dict[str, list[int]] = {"worker": [], "ingress": []}
    try:
        for service, setting in (("worker", "WORKER_PORT"), ("ingress", "API_PORT")):
            for number in range(compose.replicas(service)):
                port = free_port()
                environment = compose.environment(service)
                assert environment[setting], "the port that its health check asks"
                environment[setting] = str(port)
                command = [*SUPPORTSTREAM, *compose.command(service)]
                server = ServerProcess(
                    service, command, log_path=directory / f"{service}-{number}.log", env=environment
                )
                server.start()
                servers.append((server, port))
                ports[service].append(port)
        for server, port in servers:
            server.wait_ready(lambda port=port: is_ready(port), READY_WITHIN_S)  # type: ignore[misc]
        yield ports["ingress"]
    finally:
        for server, _ in servers:
            if server.running:
                server.stop(grace_s=15)


def is_ready(port: int) -> bool:
    """As the health checks of compose.yaml ask."""
    try:
        return get(f"http://{LOOPBACK}:{port}/health/ready", timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


def test_a_question_through_each_ingress_is_answered_with_its_source(ingresses: list[int]) -> None:
    assert len(ingresses) == 2
    for port in ingresses:

        def ask(port: int = port) -> dict[str, Any] | None:
            body = {"text": "How do I get my money back?"}
            response = httpx.post(f"http://{LOOPBACK}:{port}/api/v1/chat", json=body, timeout=30, verify=False)
            return dict(response.json()) if response.status_code == 200 else None

        answer = wait_until(ask, "an answer")
        assert answer is not None
        assert answer["reply"]["citations"][0]["doc_id"] == "refunds.md"


def test_production_hides_what_is_for_development(ingresses: list[int]) -> None:
    url = f"http://{LOOPBACK}:{ingresses[0]}"
    assert httpx.get(f"{url}/").json()["environment"] == "production"
    assert httpx.get(f"{url}/docs").status_code == 404
