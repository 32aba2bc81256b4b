"""How commands run and speak: results to standard output, everything else to standard error."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
import uvloop
from rich.console import Console

from ops.logs import configure_logging
from ops.settings import Settings, load_settings

T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output, for scripts."""
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def harmless(text: str) -> str:
    """What somebody else wrote, without anything that a terminal would obey."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def prepare(**overrides: object) -> Settings:
    """Settings with logging configured by them. Raises UsageError."""
    settings = load_settings(**{name: value for name, value in overrides.items() if value is not None})
    configure_logging(settings.log_level, settings.log_format)
    return settings


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs the command's coroutine on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
