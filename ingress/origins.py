"""Which web pages may talk to us. Browsers name theirs in `Origin`; other clients send none."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """Exact origins (`https://shop.example`). With none given, only pages that this server itself delivered."""

    allowed: frozenset[str] = frozenset()

    def allows(self, headers: Mapping[str, str]) -> bool:
        """`headers` with lower-case names."""
        origin = headers.get("origin")
        if origin is None:
            return True
        if self.allowed:
            return origin in self.allowed
        host = headers.get("host", "")
        return bool(host) and origin in (f"http://{host}", f"https://{host}")
