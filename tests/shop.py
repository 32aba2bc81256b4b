"""A pipeline that answers questions about a shop."""

from tests.polling import wait_until
from tests.processes import SAMPLES, Pipeline, Process


class Shop:
    """A pipeline that answers from the sample knowledge, with its processes by name."""

    def __init__(self, pipeline: Pipeline, *, workers: int, ingresses: int) -> None:
        self.pipeline = pipeline
        self.ingresses: list[Process] = [pipeline.ingress() for _ in range(ingresses)]
        self.workers: list[Process] = [pipeline.worker() for _ in range(workers)]
        pipeline.must("knowledge", "add", *map(str, SAMPLES))
        pipeline.ready()
        wait_until(lambda: self.knows(len(SAMPLES)), "every worker knows the samples")

    def knows(self, documents: int) -> bool:
        """Whether every worker has just so many documents."""
        return all(worker.health()["knowledge"]["documents"] == documents for worker in self.workers)
