"""A Redis whose memory is full."""

from ops.local.redis_call import call


def drop_keys(port: int) -> None:
    """Fills the server's memory until it drops keys."""
    used = next(line for line in call(port, "INFO", "memory").splitlines() if line.startswith("used_memory:"))
    call(port, "CONFIG", "SET", "maxmemory", str(int(used.partition(":")[2]) + 500_000))
    for number in range(100):
        call(port, "SET", f"filling:{number}", "x" * 20_000)
