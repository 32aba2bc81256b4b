"""JSON responses by orjson."""

from typing import Any

import orjson
from starlette.responses import Response


class Json(Response):
    """A body of plain JSON values, dataclasses included."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)
