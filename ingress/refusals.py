"""Records of a topic that are refused, one by one, while everything beside them goes on."""

from typing import Literal

from schemas.errors import NewerSchema

RefusalReason = Literal[
    "unreadable", "key_mismatch", "invalid_event", "newer_schema", "subscriber_failed", "not_opened", "internal_error"
]
"""A stable word for the log and for `supportstream_reply_records_refused_total`."""


class RecordRefused(Exception):
    """The record was dropped, or not every subscriber could take it; its cause is the error behind it."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: RefusalReason = reason


def refusal_reason(error: BaseException) -> RefusalReason:
    """The word for an error that ended the delivery of one record."""
    match error:
        case RecordRefused():
            return error.reason
        case NewerSchema():
            return "newer_schema"
        case _:
            return "internal_error"
