"""The session store in Redis."""

from store.redis.sessions import RedisSessionStore

__all__ = ["RedisSessionStore"]
