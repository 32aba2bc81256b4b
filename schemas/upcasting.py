"""Reading reply events of earlier versions: each is taken up to the present one before it is validated.

Within the topic's `v1` a field is never renamed or retyped for other readers; what does change (a default that meant
something else, a field that was split) is a new version here. An event without `schema_version` is of version 1.
A version, once released, has a file in `tests/corpus` and is never touched again.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from schemas.errors import NewerSchema

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes an event's fields from one version to the next."""

UPCASTERS: Mapping[int, Upcaster] = {}
"""By the version that they take an event from."""


def current_version(upcasters: Mapping[int, Upcaster] = UPCASTERS) -> int:
    return len(upcasters) + 1


def upcast(value: bytes, upcasters: Mapping[int, Upcaster] = UPCASTERS) -> bytes:
    """The event's JSON as the present version has it; what is no JSON object comes back as it is.

    Raises:
        NewerSchema: a later version of this program wrote it.
    """
    if not upcasters and b'"schema_version":' not in value:
        # Nothing to do, and not to be parsed twice for that.
        return value
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    if not isinstance(fields, dict):
        return value
    version = fields.get("schema_version", 1)
    current = current_version(upcasters)
    if not isinstance(version, int) or version > current:
        raise NewerSchema(f"The event has version {version}, this program knows {current}: upgrade it.")
    if version == current:
        return value
    for number in range(version, current):
        fields = upcasters[number](fields)
    return orjson.dumps({**fields, "schema_version": current})
