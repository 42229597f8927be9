"""What a cached model costs at the start of a pod: the download into the cache, the hashing at a node's first use, and every later use.

    python bench/model_cache.py --gib 1 --files 4

The store is a local folder, so that `download` is the floor that hashing and writing set, without a network. All sizes are in the page cache.
Prints JSON: seconds, and seconds for 140 GB (a 70B model in bfloat16) at the same rate.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from pathlib import Path

from finetune_trainer.cached_model import PARALLEL_FILES, ModelVersion
from finetune_trainer.model_cache import ModelCache
from finetune_trainer.storage import open_storage

GIB = 2**30
LARGE_BYTES = 140e9


def seconds_of(cache: ModelCache, source: str) -> float:
    """Fetch once and return how long it took."""
    storage = open_storage(source)
    version = ModelVersion(storage.uri, "", tuple(storage.list()))
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        cache.fetch(storage, version)
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the model (default 1)")
    parser.add_argument("--files", type=int, default=4, help="its files (default 4)")
    parser.add_argument("--folder", type=Path, help="where the cache is (default: a temporary folder)")
    options = parser.parse_args()
    size = int(options.gib * GIB / options.files)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        source, cache = Path(name, "source"), Path(name, "cache")
        source.mkdir()
        cache.mkdir()
        part = os.urandom(2**20)
        for number in range(options.files):
            with (source / f"model-{number}.safetensors").open("wb") as file:
                for _ in range(size // len(part)):
                    file.write(part)
        uri = f"file://{source}"
        seconds = {
            "download": seconds_of(ModelCache(cache, kernel="one"), uri),
            "first_use_on_a_node": seconds_of(ModelCache(cache, kernel="two"), uri),
            "later_use": seconds_of(ModelCache(cache, kernel="two"), uri),
        }
        total = sum(path.stat().st_size for path in source.iterdir())
    result = {
        "bytes": total,
        "threads": PARALLEL_FILES,
        "cores": os.cpu_count(),
        "seconds": {what: round(value, 4) for what, value in seconds.items()},
        "seconds_for_140_GB": {
            what: round(seconds[what] * LARGE_BYTES / total, 1) for what in ("download", "first_use_on_a_node")
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
