"""What a library of many vectors costs: time to open it, and memory before and after use.

    python -m bench.many_vectors [--counts 0 1000 10000] [--hidden 576]

Each library is opened in a process of its own. Prints one JSON object last, and writes it to
bench/results/many_vectors.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch

from bench.report import publish, say
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint

LAYERS = (10, 14)


def fill(root: Path, count: int, hidden: int) -> None:
    """Add `count` random vectors as an upload would, but do not wait for the disk after each."""
    library = Library(root)
    with patch.object(os, "fsync", lambda descriptor: None):
        for n in range(count):
            generator = torch.Generator().manual_seed(n)
            tensors = {
                HookPoint("resid_post", layer): torch.randn(hidden, generator=generator)
                for layer in LAYERS
            }
            library.add(write_vector(SteeringVector(tensors)), f"vector-{n:06d}")


def opened(root: Path) -> dict[str, Any]:
    """What opening the library at `root` costs this process. Memory is resident, in MiB."""
    process = psutil.Process()
    before, began, busy = process.memory_info().rss, time.perf_counter(), time.process_time()
    library = Library(root)
    took, worked = time.perf_counter() - began, time.process_time() - busy
    held = process.memory_info().rss - before
    names = library.count()
    began = time.perf_counter()
    for n in range(0, names, max(1, names // 100)):
        library.resolve(f"vector-{n:06d}")
    used = time.perf_counter() - began
    return {
        "vectors": names,
        "open_seconds": round(took, 3),
        "open_processor_seconds": round(worked, 3),
        "open_mib": round(held / 2**20, 1),
        "resolve_100_seconds": round(used, 4),
        "after_use_mib": round((process.memory_info().rss - before) / 2**20, 1),
        "tensor_mib_on_disk": round(_tensor_bytes(root) / 2**20, 1),
    }


def _tensor_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "objects").iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 1000, 10_000])
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(opened(options.open)))
        return
    rows = []
    for count in options.counts:
        with tempfile.TemporaryDirectory(prefix="many-") as folder:
            fill(Path(folder), count, options.hidden)
            command = [sys.executable, "-m", "bench.many_vectors", "--open", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
            say(str(rows[-1]))
    found = {
        "hidden": options.hidden,
        "layers_of_each": len(LAYERS),
        "libraries": rows,
    }
    publish("many_vectors", found)


if __name__ == "__main__":
    main()
