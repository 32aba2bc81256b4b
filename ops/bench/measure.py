"""One measurement of a running side: the load generator in its own process, everyone's CPU time around it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from ops.bench.load import Measured, Plan
from ops.bench.sampling import Usage, machine_cpu_s, usage


class BenchError(RuntimeError):
    """A measurement that can't be used. The message says which and why."""


@dataclass(frozen=True)
class Sample:
    """What the customers saw, and what each watched process spent meanwhile."""

    load: Measured
    cpu_s: dict[str, float]
    rss_bytes: dict[str, int]
    machine_cpu_s: float
    """How much of the machine's CPU time was not idle meanwhile, the watched processes included."""

    @property
    def cpus_lost_to_others(self) -> float:
        """How many CPUs went to neither the watched processes nor the generator: near 0 if quiet."""
        return (self.machine_cpu_s - sum(self.cpu_s.values())) / self.load.seconds

    def cpu_ms_per_turn(self, process: str) -> float:
        return self.cpu_s[process] * 1000 / self.load.turns


def measure(plan: Plan, pids: Mapping[str, int]) -> Sample:
    """Run the load generator by `plan` and watch the processes `pids` (name → id) while it measures.

    Raises BenchError when the generator fails, a customer meets an error, or no turn is completed.
    """
    before: dict[str, Usage] = {}
    after: dict[str, Usage] = {}
    machine_before_s = machine_after_s = 0.0
    line = b""
    with subprocess.Popen(_command(plan), stdout=subprocess.PIPE) as generator:
        if generator.stdout is None:
            raise BenchError("the load generator has no output")
        for line in generator.stdout:
            match orjson.loads(line).get("phase"):
                case "measuring":
                    before, machine_before_s = _usages(pids), machine_cpu_s()
                case "measured":
                    after, machine_after_s = _usages(pids), machine_cpu_s()
    if generator.returncode:
        raise BenchError(f"the load generator ended with exit code {generator.returncode}")
    load = Measured(**orjson.loads(line))
    if load.errors or not load.turns:
        raise BenchError(f"{plan.clients} clients completed {load.turns} turns and met errors: {load.errors}")
    return Sample(
        load=load,
        cpu_s={name: after[name].cpu_s - before[name].cpu_s for name in pids} | {"generator": load.generator_cpu_s},
        rss_bytes={name: after[name].rss_bytes for name in pids},
        machine_cpu_s=machine_after_s - machine_before_s,
    )


def _usages(pids: Mapping[str, int]) -> dict[str, Usage]:
    return {name: usage(pid) for name, pid in pids.items()}


def _command(plan: Plan) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "ops.bench.load",
        "--port",
        str(plan.port),
        "--clients",
        str(plan.clients),
    ]
    command += ["--warm-up", str(plan.warm_up_s), "--seconds", str(plan.measured_s)]
    command += ["--patience", str(plan.patience_s)]
    if plan.turns is not None:
        command += ["--turns", str(plan.turns)]
    if plan.unique_texts:
        command.append("--unique-texts")
    return command
