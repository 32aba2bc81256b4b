"""CPU time and memory of running processes, by process id."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """What a process and all its descendants have used so far."""

    cpu_s: float
    """User and system time since the process began, ended children included. Resolution about 10 ms."""
    rss_bytes: int
    """Resident memory now. Pages that a process shares with its children count once for each."""


def usage(pid: int) -> Usage:
    """The usage of process `pid` until now.

    Raises psutil.NoSuchProcess when `pid` has ended.
    """
    process = psutil.Process(pid)
    cpu_s, rss_bytes = _own_usage(process)
    for child in process.children(recursive=True):
        try:
            child_cpu_s, child_rss_bytes = _own_usage(child)
        except psutil.NoSuchProcess:  # ended meanwhile: from the next call on its parent reports its time
            continue
        cpu_s += child_cpu_s
        rss_bytes += child_rss_bytes
    return Usage(cpu_s, rss_bytes)


def machine_cpu_s() -> float:
    """CPU time over all CPUs since the machine began that was not idle.

    On a virtual machine that includes what the hypervisor gave to other machines (steal).
    """
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # Linux counts it in user and nice too
    return float(sum(times) - idle - guest)


def _own_usage(process: psutil.Process) -> tuple[float, int]:
    with process.oneshot():
        times = process.cpu_times()
        cpu_s = times.user + times.system + times.children_user + times.children_system
        return cpu_s, process.memory_info().rss
