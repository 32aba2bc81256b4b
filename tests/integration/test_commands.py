"""The command line against real servers: what it does, what it prints, and how it fails."""

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from ops.local.ports import LOOPBACK, free_port
from schemas.topics import TopicNames
from tests.polling import wait_until
from tests.processes import SAMPLES, Pipeline, bare_environment, run_command
from tests.shop import Shop

QUESTION = "How do I get my money back?"


@pytest.fixture(scope="module")
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    with new_pipeline() as pipeline:
        yield pipeline


def one_line(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> str:
    """The command failed with this code and one line that has these words."""
    assert done.returncode == exit_code, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("supportstream: ")
    for word in words:
        assert word in lines[0]
    return lines[0]


def test_topics_are_created_once_shown_and_checked(pipeline: Pipeline) -> None:
    other = replace(pipeline, run_id=pipeline.run_id + "b")
    names = TopicNames(other.topics.prefix)
    all_names = {names.inbound, names.replies, names.deltas, names.knowledge, names.snapshots, names.keys, names.dlq}
    missing = other.run("topics", "check")
    assert missing.returncode == 1
    assert all(name in missing.stderr for name in all_names)

    created = other.must("topics", "create", TOPIC_PARTITIONS="6")
    assert {line.removeprefix("created ") for line in created.splitlines()} == all_names
    assert other.must("topics", "create", TOPIC_PARTITIONS="6") == ""
    assert other.must("topics", "check", TOPIC_PARTITIONS="6")
    shown = orjson.loads(other.must("topics", "show", "--json"))
    partitions = {topic["name"]: topic["partitions"] for topic in shown}
    assert partitions == dict.fromkeys(all_names, 6) | {names.knowledge: 1, names.snapshots: 1, names.keys: 1}
    assert {topic["name"]: topic["config"]["cleanup.policy"] for topic in shown}[names.knowledge] == "compact"
    assert names.inbound in other.must("topics", "show")

    differs = other.run("topics", "check")
    assert differs.returncode == 1
    assert f"{names.inbound} has 6 partitions, TOPIC_PARTITIONS says 12" in differs.stderr


def test_check_names_what_is_there_and_what_is_missing(pipeline: Pipeline) -> None:
    found = pipeline.must("check")
    assert [line.split()[:2] for line in found.splitlines()] == [["ok", "kafka:"], ["ok", "store:"], ["ok", "model:"]]
    nothing = f"redis://{LOOPBACK}:{free_port()}/0"
    done = pipeline.run("check", REDIS_URL=nothing)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok", "failed", "ok"]


def test_workers_learn_and_forget_a_document_while_they_run(shop: Shop, tmp_path: Path) -> None:
    pipeline, ingress = shop.pipeline, shop.ingresses[0]

    assert shop.knows(len(SAMPLES))
    gardens = tmp_path / "gnomes.md"
    gardens.write_text("# Garden gnomes\n\nA garden gnome must be brought indoors before the first frost.\n")
    pipeline.must("knowledge", "add", str(gardens))
    wait_until(lambda: shop.knows(len(SAMPLES) + 1), "one document more")
    listed = orjson.loads(pipeline.must("knowledge", "list", "--json"))
    assert [document["doc_id"] for document in listed] == sorted([*(path.name for path in SAMPLES), "gnomes.md"])
    found = orjson.loads(pipeline.must("knowledge", "search", QUESTION, "--json"))
    assert found[0]["doc_id"] == "refunds.md"

    questions = f"When do I bring my garden gnome indoors?\n{QUESTION}\n\n"
    chat = pipeline.must("chat", "--url", ingress.url, stdin=questions)
    assert "first frost" in chat
    assert chat.index("gnomes.md") < chat.index("refunds.md")

    assert "--execute" in pipeline.must("knowledge", "remove", "gnomes.md"), "it only says what it would do"
    assert shop.knows(len(SAMPLES) + 1)
    pipeline.must("knowledge", "remove", "gnomes.md", "--execute")
    wait_until(lambda: shop.knows(len(SAMPLES)), "the document is forgotten")
    one_line(pipeline.run("knowledge", "remove", "gnomes.md"), 1, "gnomes.md")


def test_publish_is_answered_on_the_reply_topic(pipeline: Pipeline) -> None:
    printed = orjson.loads(pipeline.must("publish", "shop-1", QUESTION, "--id", "order-4711", "--user", "u1", "--json"))
    assert printed["id"] == "order-4711"
    assert printed["topic"] == pipeline.topics.inbound
    assert "order-4712 is in" in pipeline.must("publish", "shop-1", QUESTION, "--id", "order-4712")


@pytest.mark.parametrize("arguments", [("publish", "no spaces", "hello"), ("publish", "shop-1", "  ")])
def test_a_wrong_argument_is_a_usage_error(pipeline: Pipeline, arguments: tuple[str, ...]) -> None:
    one_line(pipeline.run(*arguments), 2)


@pytest.mark.parametrize("arguments", [("dance",), ("worker", "--port", "70000"), ("publish", "shop-1")])
def test_an_unknown_command_or_option_is_a_usage_error(pipeline: Pipeline, arguments: tuple[str, ...]) -> None:
    done = pipeline.run(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_a_file_that_is_no_text_is_an_error(pipeline: Pipeline, tmp_path: Path) -> None:
    binary = tmp_path / "picture.md"
    binary.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    one_line(pipeline.run("knowledge", "add", str(binary)), 1, "picture.md")


WRONG_SETTINGS: dict[str, dict[str, str]] = {
    "SESSION_TIMEOUT_SECONDS": {"SESSION_TIMEOUT": "5"},
    "SESSION_LOCK_RETRY_ATTEMPTS": {"SESSION_LOCK_RETRY_ATTEMPTS": "many"},
    "TOKEN_SECRET": {"TOKEN_SECRET": "short"},
    "ENVIRONMENT": {"ENVIRONMENT": "staging"},
    "DEBUG": {"ENVIRONMENT": "production", "DEBUG": "true"},
    "SESSION_STORE_TYPE": {"SESSION_STORE_TYPE": "in_memory"},
    "CORS_ORIGINS": {"CORS_ORIGINS": "https://*.example"},
    "https://[/x]": {"CORS_ORIGINS": "https://[/x]"},
    "KAFKA_SASL_USERNAME": {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
    "KAFKA_SSL_CAFILE": {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": "/nowhere/ca.pem"},
    "KAFKA_BOOTSTRAP_SERVERS": {"KAFKA_BOOTSTRAP_SERVERS": "kafka:port"},
    "REDIS_URL": {"REDIS_URL": "localhost:6379"},
    "TOPIC_PARTITIONS": {"TOPIC_PARTITIONS": "0"},
    "TOPIC_PREFIX": {"TOPIC_PREFIX": "what ever"},
}


@pytest.fixture(scope="module")
def refusals(pipeline: Pipeline) -> dict[str, subprocess.CompletedProcess[str]]:
    """What `ingress` says to each; most of the time goes into starting Python, so two start at once."""

    def attempt(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return pipeline.run("ingress", "--port", "0", **settings)

    with ThreadPoolExecutor(2) as threads:
        return dict(zip(WRONG_SETTINGS, threads.map(attempt, WRONG_SETTINGS.values()), strict=True))


@pytest.mark.parametrize("word", WRONG_SETTINGS)
def test_a_wrong_setting_is_one_line_that_names_it(
    refusals: dict[str, subprocess.CompletedProcess[str]], word: str
) -> None:
    one_line(refusals[word], 2, word)


def free_http_ports() -> dict[str, str]:
    """For commands that must get past listening: others may listen on the ports of the settings' defaults."""
    return {"API_PORT": str(free_port()), "WORKER_PORT": str(free_port())}


def without(pipeline: Pipeline, *names: str) -> dict[str, str]:
    return {name: value for name, value in pipeline.environment().items() if name not in names}


@pytest.mark.parametrize("command", ["ingress", "worker"])
def test_a_process_without_kafka_or_redis_says_which_setting_is_missing(pipeline: Pipeline, command: str) -> None:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"):
        one_line(run_command((command,), without(pipeline, name), pipeline.directory), 2, name)


@pytest.mark.parametrize("command", ["ingress", "worker"])
@pytest.mark.parametrize("setting", ["KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"])
def test_a_server_that_is_not_there_is_one_line(pipeline: Pipeline, command: str, setting: str) -> None:
    nowhere = f"{LOOPBACK}:{free_port()}"
    address = f"redis://{nowhere}/0" if setting == "REDIS_URL" else nowhere
    settings = {setting: address, "GENERATOR": "null", "KAFKA_SEND_TIMEOUT_SECONDS": "2", **free_http_ports()}
    began = time.monotonic()
    one_line(pipeline.run(command, **settings), 1)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("command", ["ingress", "worker"])
def test_missing_topics_are_one_line_that_says_how_to_create_them(pipeline: Pipeline, command: str) -> None:
    settings = {"TOPIC_PREFIX": "nobody.", "GENERATOR": "null", "KAFKA_SEND_TIMEOUT_SECONDS": "2", **free_http_ports()}
    one_line(pipeline.run(command, **settings), 1, "nobody.inbound.v1", "supportstream topics create")


def test_a_taken_port_is_one_line(pipeline: Pipeline) -> None:
    port = pipeline.bootstrap_servers.rpartition(":")[2]
    one_line(pipeline.run("ingress", "--port", port), 1, port)


def test_chat_without_a_server_is_one_line(pipeline: Pipeline) -> None:
    token = {"API_PORT": str(free_port())}
    done = pipeline.run(
        "chat", "--session", "s-1", "--token", "nonsense", "--url", "http://not-a-host.invalid", **token
    )
    assert done.returncode == 0, "an empty pipe asks nothing"


def test_production_needs_a_token_secret(pipeline: Pipeline) -> None:
    environment = {**without(pipeline, "TOKEN_SECRET"), "ENVIRONMENT": "production"}
    one_line(run_command(("ingress",), environment, pipeline.directory), 2, "TOKEN_SECRET")


def test_a_dotenv_file_counts_and_a_typo_in_it_is_an_error(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TOPIC_PREFFIX=a.\n")
    one_line(run_command(("topics", "show"), without(pipeline, "TOPIC_PREFIX"), tmp_path), 2, "TOPIC_PREFFIX")
    (tmp_path / ".env").write_text("TOPIC_PREFIX=from-dotenv.\n")
    done = run_command(("topics", "show"), without(pipeline, "TOPIC_PREFIX"), tmp_path)
    assert "from-dotenv.inbound.v1" in done.stdout


def test_dev_answers_with_its_sources_and_nothing_else(tmp_path: Path) -> None:
    done = run_command(("dev", "--ask", QUESTION), bare_environment(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 days" in done.stdout
    assert "(refunds.md)" in done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.strip() == ""


def test_help_names_every_command(tmp_path: Path) -> None:
    done = run_command(("--help",), bare_environment(), tmp_path)
    assert done.returncode == 0
    commands: Any = (
        *("dev", "ingress", "worker", "topics", "publish", "chat", "knowledge", "sessions", "keys", "check", "bench"),
    )
    assert [name for name in commands if name not in done.stdout] == []
