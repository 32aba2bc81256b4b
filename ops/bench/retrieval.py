"""What retrieval costs in the product, next to the embedding model alone."""

from __future__ import annotations

import subprocess
import sys

import orjson

from ops.bench.load import Plan
from ops.bench.measure import BenchError
from ops.bench.services import Services
from ops.bench.side_figures import CLIENTS, WARM_UP_S, Figures, figures_of_many, measure_running
from ops.bench.sides import Side, running


def measure_retrieval(services: Services, side: Side, seconds: float) -> Figures:
    """The figures of a side that embeds every text: 200 customers, no two texts equal."""
    with running(side, services) as started:
        plan = Plan(started.port, CLIENTS, WARM_UP_S, seconds, unique_texts=True)
        sample = measure_running(services, started, plan)
    return {"turns": sample.load.turns, **figures_of_many(sample)}


def measure_encoding(texts: int) -> float:
    """Texts per second of the embedding model in a process of its own, on the first `texts` unique texts.

    Only meaningful while nothing else runs. Raises BenchError when the process fails.
    """
    command = [sys.executable, "-m", "ops.bench.floor_encode", "--texts", str(texts)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"the embedding model alone could not be measured:\n{done.stderr.decode()}")
    return float(orjson.loads(done.stdout)["texts_per_s"])
