"""Logging: one line per event, readable on a terminal, JSON elsewhere."""

import logging
import sys
from typing import Literal

import structlog


def configure_logging(level: str, form: Literal["auto", "console", "json"]) -> None:
    """Sends structlog and the standard library's loggers to standard error in one form."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Libraries speak only when something is wrong.
    for name in ("aiokafka", "faststream", "uvicorn", "sentence_transformers", "faiss", "stamina", "httpx", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # While a command starts it says itself, in one line, what is missing; `hear_libraries` ends that.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def quiet_faststream() -> None:
    """FastStream gives its logger a handler and a level of its own when it is imported. Its lines are to look like all
    others, and as those of the Kafka client to come only once the process runs."""
    logger = logging.getLogger("faststream")
    logger.handlers = []
    logger.propagate = True
    logger.setLevel(logging.CRITICAL)


def hear_libraries() -> None:
    """Lets the Kafka client and FastStream log their own errors, once the process runs."""
    for name in ("aiokafka", "faststream"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
