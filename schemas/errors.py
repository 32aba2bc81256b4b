"""Errors of the wire formats."""

from typing import Literal

from pydantic import ValidationError

InvalidReason = Literal[
    "unreadable",
    "too_large",
    "too_large_unpacked",
    "no_value",
    "bad_json",
    "unknown_type",
    "no_session",
    "bad_session_id",
    "key_mismatch",
    "invalid_field",
]


class SchemaError(ValueError):
    """Anything in here that cannot be accepted as it is."""


class InvalidRecord(SchemaError):
    """A topic record that can never become a turn, whatever is retried.

    `reason` is a stable word for counters and the dead letter topic; the message says what to change. `session_id` is
    the session that it was for, where that much could be read.
    """

    def __init__(self, reason: InvalidReason, detail: str, session_id: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.session_id = session_id


class InvalidFrame(SchemaError):
    """A WebSocket frame that breaks the protocol; `code` is one of `schemas.frames.ErrorCode`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class SequenceGap(SchemaError):
    """A reply event does not follow the session state it is folded into: events in between are missing."""


class NewerSchema(SchemaError):
    """Something was written by a later version of this program, and can't be read by this one."""


def explain(error: ValidationError) -> str:
    """The first validation problem as one sentence that names the field, without echoing its value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the record"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"
