"""What an extraction costs: against plain Hugging Face batches, and to those who are served.

    python -m bench.serving.extract [--rounds 3]

Starts a server of the demo model. In each round, 200 pairs are read (last token, all layers) once
by `POST /v1/steering/vectors/extract` and once by Hugging Face in padded batches on the same
cores, turn and turn about. Then streams run, alone and beside an extraction, turn and turn about:
the 95th percentile of their times per output token. Prints one JSON object last, and writes it to
bench/results/extract.json.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.report import publish, say
from bench.servers import Server, running, steersman
from bench.streams import send
from steersman.vectors.demo.activations import LoadedModel, block_outputs, load_model
from steersman.vectors.demo.contrast import contrasts
from steersman.vectors.demo.model import default_home, prepare_model

PAIRS = 200
STREAMS, NEW_TOKENS = 4, 64


def texts() -> list[list[str]]:
    """200 pairs of the demo's contrast texts; where they run out, with a word before them."""
    pairs = [
        list(p) for c in contrasts().values() for p in zip(c.positive, c.negative, strict=True)
    ]
    more = [[f"Note: {text}" for text in pair] for pair in pairs]
    return (pairs + more)[:PAIRS]


@torch.no_grad()
def by_hugging_face(loaded: LoadedModel, pairs: list[list[str]], batch: int = 16) -> float:
    """Seconds to read the last token's stream at each block, and to take the mean difference.

    Sorted by length, so that little is padded; without the head, which nothing here needs.
    """
    began = time.perf_counter()
    rows = [(side, loaded.tokenizer(pair[side]).input_ids) for pair in pairs for side in (0, 1)]
    rows.sort(key=lambda row: len(row[1]))
    layers = range(len(loaded.blocks))
    sums = torch.zeros(2, len(layers), int(loaded.model.config.hidden_size), dtype=torch.float64)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        ids = torch.zeros(len(part), max(len(row) for _, row in part), dtype=torch.long)
        for i, (_, row) in enumerate(part):
            ids[i, : len(row)] = torch.tensor(row)
        with block_outputs(loaded, layers) as outputs:
            loaded.model.model(input_ids=ids, use_cache=False)
        for i, (side, row) in enumerate(part):
            for layer in layers:
                sums[side, layer] += outputs[layer][i, len(row) - 1]
    assert (sums[0] - sums[1]).isfinite().all()
    return time.perf_counter() - began


async def extraction(http: httpx.AsyncClient, pairs: list[list[str]]) -> dict[str, float]:
    """Seconds until the vector is in the library; of these, until the last text was captured."""
    began = time.perf_counter()
    request = {
        "method": "mean_difference",
        "name": f"bench-{time.monotonic_ns()}",
        "pairs": pairs,
        "tokens": "last",
    }
    job = (await http.post("/v1/steering/vectors/extract", json=request)).json()
    captured = 0.0
    while job["status"] in ("queued", "running"):
        await asyncio.sleep(0.1)
        job = (await http.get(f"/v1/steering/jobs/{job['id']}")).json()
        if not captured and job["phase"] not in ("waiting", "reading", "capturing"):
            captured = time.perf_counter() - began
    if job["status"] != "succeeded":
        raise RuntimeError(str(job))
    return {"seconds": time.perf_counter() - began, "captured": captured}


async def p95(http: httpx.AsyncClient, server: Server) -> float:
    """95th percentile of the time per output token of streams that run one after the other, four at
    a time."""
    bodies = [
        {
            "model": "smollm2",
            "prompt": f"Story number {n}: ",
            "max_tokens": NEW_TOKENS,
            "min_tokens": NEW_TOKENS,
            "ignore_eos": True,
            "temperature": 0,
        }
        for n in range(STREAMS)
    ]
    seconds: list[float] = []
    for _ in range(3):
        batch = await send(http, server.url, bodies)
        seconds += [request.seconds for request in batch.requests]
    return statistics.quantiles(seconds, n=20)[-1]


async def measure(server: Server, loaded: LoadedModel, rounds: int) -> dict[str, Any]:
    pairs = texts()
    speed: list[dict[str, float]] = []
    latency: list[dict[str, float]] = []
    async with httpx.AsyncClient(base_url=server.url, timeout=600, trust_env=False) as http:
        await extraction(http, pairs[:20])
        by_hugging_face(loaded, pairs[:20])
        for n in range(rounds):
            found: dict[str, float] = {}
            for who in ("server", "hugging_face") if n % 2 == 0 else ("hugging_face", "server"):
                if who == "server":
                    found |= await extraction(http, pairs)
                else:
                    found["hugging_face"] = by_hugging_face(loaded, pairs)
            speed.append(found)
            say(f"round {n + 1}: {found}")
        for n in range(rounds):
            found = {}
            for who in ("alone", "beside") if n % 2 == 0 else ("beside", "alone"):
                if who == "alone":
                    found["alone"] = await p95(http, server)
                else:
                    work = asyncio.create_task(extraction(http, pairs))
                    await asyncio.sleep(1)
                    found["beside"] = await p95(http, server)
                    found["still_extracting"] = float(not work.done())
                    await work
            latency.append(found)
            say(f"round {n + 1}: {found}")
    return {
        "speed": speed,
        "latency": latency,
        "captured_to_hugging_face": statistics.median(
            r["captured"] / r["hugging_face"] for r in speed
        ),
        "whole_to_hugging_face": statistics.median(r["seconds"] / r["hugging_face"] for r in speed),
        "p95_ratio": statistics.median(r["beside"] / r["alone"] for r in latency),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model = prepare_model(default_home(), say)
    loaded = load_model(model)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    options = "--served-model-name smollm2 --max-model-len 1024 --kv-cache-memory-bytes 536870912"
    with tempfile.TemporaryDirectory(prefix="extract-") as folder:
        command = steersman(str(model), [*options.split(), "--library", f"{folder}/library"])
        with running("steersman", command, {}, Path(folder) / "log") as server:
            found = asyncio.run(measure(server, loaded, args.rounds))
    publish("extract", {"pairs": PAIRS, **found})


if __name__ == "__main__":
    main()
