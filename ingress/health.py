"""Health: is the process alive, can it serve, and what does it run with."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter

from ingress.responses import Json

Check = Callable[[], Awaitable[None]]
"""Raises an exception whose text says what is wrong."""

CHECK_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Health:
    """The outcome of every check by name; empty text where it passed."""

    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return not any(self.problems.values())


async def examine(checks: Mapping[str, Check]) -> Health:
    """Runs all checks at once, each bounded in time."""

    async def run(check: Check) -> str:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await check()
        except TimeoutError:
            return f"no answer in {CHECK_TIMEOUT_SECONDS:g} s"
        except Exception as error:  # whatever it is, the report names it
            return str(error) or type(error).__name__
        return ""

    outcomes = await asyncio.gather(*(run(check) for check in checks.values()))
    return Health(dict(zip(checks, outcomes, strict=True)))


def health_router(
    ready: Mapping[str, Check], live: Mapping[str, Check], describe: Callable[[], Awaitable[dict[str, object]]]
) -> APIRouter:
    """`/health/live`: restart me if this fails. `/health/ready`: send me no traffic if this fails. `/health`: both,
    with what the process runs with."""
    router = APIRouter()

    def report(health: Health) -> Json:
        checks = {name: problem or "ok" for name, problem in health.problems.items()}
        body = {"status": "ok" if health.ready else "unavailable", "checks": checks}
        return Json(body, 200 if health.ready else 503)

    @router.get("/health/live")
    async def is_live() -> Json:
        return report(await examine(live))

    @router.get("/health/ready")
    async def is_ready() -> Json:
        return report(await examine(ready))

    @router.get("/health")
    async def health() -> Json:
        result = await examine({**live, **ready})
        checks = {name: problem or "ok" for name, problem in result.problems.items()}
        body = {**await describe(), "status": "ok" if result.ready else "degraded", "checks": checks}
        return Json(body, 200 if result.ready else 503)

    return router
