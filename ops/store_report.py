"""What `/` and `/health` say of the session store."""

from ops.settings import Settings
from store.l1 import L1Cache
from store.protocol import StoreStats


def store_report(
    settings: Settings, stats: StoreStats, locks: dict[str, int | float | bool], cache: L1Cache
) -> dict[str, object]:
    """The store's type, connection and figures, the cache in front of it, and how sessions are guarded."""
    return {
        "type": stats.type,
        "connected": stats.connected,
        **stats.details,
        **cache.describe(),
        "locking": locks,
        **guards(settings),
    }


def guards(settings: Settings) -> dict[str, str]:
    """Encryption and fingerprinting, in a word each."""
    encryption = "on" if settings.session_encryption_enabled else "off"
    if settings.store_type == "in_memory":
        encryption = "nothing is at rest"
    return {"encryption": encryption, "fingerprinting": settings.fingerprinting}
