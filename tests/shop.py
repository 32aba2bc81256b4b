"""A pipeline that answers questions about a shop."""

from tests.processes import SAMPLES, Pipeline, Process


class Shop:
    """A pipeline that answers from the sample knowledge, with its processes by name."""

    def __init__(self, pipeline: Pipeline, *, workers: int, ingresses: int) -> None:
        self.pipeline = pipeline
        self.ingresses: list[Process] = [pipeline.ingress() for _ in range(ingresses)]
        pipeline.must("knowledge", "add", *map(str, SAMPLES))
        self.workers: list[Process] = [pipeline.worker() for _ in range(workers)]
        pipeline.ready()
