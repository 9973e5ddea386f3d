"""What many presets cost: `GET /v1/models`, and finding out how a request is steered.

python -m bench.serving.presets [--presets 0 1000 10000]

No engine runs: what is measured is ours. Prints medians in milliseconds of 50 calls each.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse

from bench.report import say
from steersman.server.presets.choose import choose
from steersman.server.presets.models import cards
from steersman.server.presets.view import PresetView
from steersman.vectors.library.library import Library
from steersman.vectors.library.presets import PresetStore, Version
from tests.support.server.make import presets_of
from tests.support.vectors.make import vector_file

CALLS = 50
BASE: dict[str, Any] = {
    "id": "m", "object": "model", "created": 0, "owned_by": "vllm", "root": "m", "parent": None,
    "max_model_len": 2048, "permission": [],
}  # fmt: skip


def median_ms(call: Callable[[], object]) -> float:
    """The median of `CALLS` calls."""
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def measure(count: int, folder: Path) -> tuple[float, float, float]:
    """Milliseconds of a list of models; of a model name with a preset; of a name without."""
    library = Library(folder, hidden_size=8, num_layers=8)
    entry, _ = library.add(vector_file(hidden=8), "glad")
    store = PresetStore(folder)
    for n in range(count):
        uses = [{"id": "glad", "coefficient": 1 + n / 1000}]
        store.add(f"preset-{n:05}", Version({"vectors": uses}, (entry.digest,)))
    presets: PresetView = presets_of(library)
    loop = asyncio.new_event_loop()

    def chosen(model: str) -> None:
        loop.run_until_complete(choose(None, model, given=False, served={"m"}, presets=presets))

    suffix = f":preset-{count // 2:05}" if count else ":glad"
    listing = median_ms(lambda: JSONResponse({"data": [BASE, *cards([BASE], presets)]}))
    return listing, median_ms(lambda: chosen(f"m{suffix}")), median_ms(lambda: chosen("m"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", type=int, nargs="+", default=[0, 1000, 10_000])
    given = parser.parse_args()
    say("presets | GET /v1/models | model name with a preset | plain model name")
    for count in given.presets:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(count, Path(folder))
        say(f"{count:7} | " + " | ".join(f"{ms:.2f} ms" for ms in figures))


if __name__ == "__main__":
    main()
