"""Errors of the ingress, as a client sees them."""

from schemas.frames import ErrorCode


class IngressError(Exception):
    """A request that is refused: `status` for REST, `code` for both, and a sentence that says what to do."""

    def __init__(self, status: int, code: ErrorCode, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class SecurityError(IngressError):
    """A good token in what looks like the wrong hands."""

    def __init__(self, message: str) -> None:
        super().__init__(403, ErrorCode.FINGERPRINT_MISMATCH, message)


def unavailable(what: str) -> IngressError:
    """Kafka or the store doesn't answer; nothing was accepted."""
    return IngressError(
        503, ErrorCode.UNAVAILABLE, f"{what} Nothing was accepted; send it again.", retry_after_seconds=2
    )


def unauthorized(code: ErrorCode, message: str) -> IngressError:
    return IngressError(401, code, message)


def not_found(message: str) -> IngressError:
    return IngressError(404, ErrorCode.NOT_FOUND, message)


def answer_unreadable() -> IngressError:
    """The answer is there, and this process can't read it: it runs an earlier version than the worker that wrote it."""
    return IngressError(
        502,
        ErrorCode.ANSWER_UNREADABLE,
        "It was answered, but by a newer version of this service than this server runs. "
        "Send it again with the same id: a server that was upgraded shows the answer.",
        retry_after_seconds=5,
    )
