"""A pipeline without retrieval, for tests that are about everything else."""

from collections.abc import Callable, Iterator

import pytest

from tests.processes import Pipeline, Process

ALLOWED_ORIGIN = "https://shop.example"


@pytest.fixture(scope="package")
def quick_pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    with new_pipeline(GENERATOR="null") as pipeline:
        yield pipeline


@pytest.fixture(scope="package")
def quick_ingress(quick_pipeline: Pipeline) -> Process:
    """With a worker behind it. Leave both as they are: other tests go on with them."""
    ingress = quick_pipeline.ingress(CORS_ORIGINS=ALLOWED_ORIGIN)
    quick_pipeline.worker()
    quick_pipeline.ready()
    return ingress
