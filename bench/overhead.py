"""What steering costs: time per output token, against vLLM without the plugin.

Two engines are loaded side by side, one vLLM as it is and one with Steersman, and only one works
at a time. In every round each configuration runs once, the order turning round each time so that a
slow drift of the machine cancels; a configuration's cost is the median over rounds of its time
divided by that of plain vLLM in the same round. Plain vLLM runs twice a round: the second against
the first shows what the machine's noise alone makes of a ratio.

    python -m bench.overhead [--rounds 9] [--tokens 64] [--model DIR_OR_ID]

Prints one JSON object last, and writes it to bench/results/overhead.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
from transformers import AutoConfig

from bench.machine import has_gpu
from bench.report import publish, say
from bench.servers import Server, demo_model, plain_vllm, running, steersman
from bench.streams import Batch, send
from bench.summary import summary
from bench.workload import (
    LAYERS_OF_A_MIX,
    LAYERS_OF_ONE,
    VECTORS,
    VECTORS_OF_A_MIX,
    Configuration,
    bodies,
    check_receipts,
    configurations,
    operations,
    upload_vectors,
)


async def measure(
    configs: Sequence[Configuration], sizes: Sequence[int], rounds: int, tokens: int
) -> dict[int, dict[str, list[Batch]]]:
    """All batches by size and configuration name, in order of rounds."""
    seen: dict[int, dict[str, list[Batch]]] = {s: {c.name: [] for c in configs} for s in sizes}
    unlimited = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=unlimited, trust_env=False) as client:
        for size in sizes:
            say(f"batch of {size}: warming up")
            for config in configs:
                warm = await send(client, config.server.url, bodies(config, size, 8))
                check_receipts(config, warm)
            for n in range(rounds):
                for config in configs if n % 2 == 0 else reversed(configs):
                    batch = await send(client, config.server.url, bodies(config, size, tokens))
                    check_receipts(config, batch)
                    seen[size][config.name].append(batch)
                times = ", ".join(
                    f"{c.name} {1000 * seen[size][c.name][-1].seconds:.2f}" for c in configs
                )
                say(f"batch of {size}, round {n + 1} of {rounds}, ms a token: {times}")
    return seen


def engine_options(arguments: argparse.Namespace) -> list[str]:
    options = ["--served-model-name", "bench", "--max-num-seqs", str(max(arguments.sizes))]
    options += ["--max-model-len", "1024", "--kv-cache-memory-bytes", str(arguments.kv_cache)]
    options += ["--disable-uvicorn-access-log"]
    if not has_gpu():
        # What `steersman serve` chooses on a CPU, said to both so that they cannot differ.
        options += ["--dtype", "float32"]
        options += [] if arguments.compiled else ["--enforce-eager"]
    return [*options, *arguments.engine_args.split()]


def busy_while_idle(servers: Sequence[Server], seconds: float = 5.0) -> dict[str, float]:
    """Cores kept busy while nobody asks anything, by each server and by everything else.

    All should be next to nothing: what runs beside a benchmark is in its figures.
    """
    before = {server.name: server.cpu_seconds() for server in servers}
    percent = psutil.cpu_percent(interval=seconds)
    busy = {s.name: (s.cpu_seconds() - before[s.name]) / seconds for s in servers}
    total = percent / 100 * (psutil.cpu_count() or 1)
    busy["everything else"] = max(0.0, total - sum(busy.values()))
    return {name: round(cores, 2) for name, cores in busy.items()}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    model_config = AutoConfig.from_pretrained(arguments.model).get_text_config()
    layers, hidden = model_config.num_hidden_layers, model_config.hidden_size
    options = engine_options(arguments)
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    # The environment of both, so that they differ by the plugin alone.
    defaults = {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_USE_V2_MODEL_RUNNER": "0"}
    common = {name: os.environ.get(name, value) for name, value in defaults.items()}
    with ExitStack() as stack:
        # A library of its own: random vectors have no place in the user's.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steersman-bench-")))
        say("starting vLLM without the plugin")
        plain = stack.enter_context(
            running(
                "plain vLLM",
                plain_vllm(arguments.model, options),
                {**common, "VLLM_PLUGINS": ""},
                scratch / "plain.log",
            )
        )
        ours = plain
        if not arguments.plain_only:
            say("starting vLLM with Steersman")
            home = {"STEERSMAN_HOME": str(scratch / "home"), "VLLM_PLUGINS": "steersman"}
            ours = stack.enter_context(
                running(
                    "Steersman",
                    steersman(arguments.model, options),
                    {**common, **home},
                    scratch / "steersman.log",
                )
            )
            say(f"uploading {VECTORS} random vectors for {layers} layers")
            arms = [arm.name for arm in operations(ours, layers)] if arguments.operations else []
            upload_vectors(ours, layers, hidden, arguments.seed, arms)
        configs = configurations(plain, ours, layers, arguments.seed, arguments.same_layers)
        if arguments.operations:
            configs = [*configs[:3], *operations(ours, layers)]
        if arguments.plain_only:
            configs = [config for config in configs if config.name.startswith("plain")]
        servers = [plain] if ours is plain else [plain, ours]
        before = busy_while_idle(servers)
        say(f"cores busy while idle: {before}")
        if sum(before.values()) > 0.2:
            say("WARNING: this machine is not quiet, the figures will not be either")
        seen = asyncio.run(measure(configs, arguments.sizes, arguments.rounds, arguments.tokens))
        after = busy_while_idle(servers)
    return {
        "settings": {
            "model": Path(arguments.model).name,
            "layers": layers,
            "hidden_size": hidden,
            "engine_options": options,
            "environment": common,
            "rounds": arguments.rounds,
            "tokens": arguments.tokens,
            "one_vector": f"1 vector at {LAYERS_OF_ONE} layers, the same for all requests",
            "distinct_mixes": f"{VECTORS_OF_A_MIX} of {VECTORS} vectors a request, each at "
            f"{LAYERS_OF_A_MIX} layers and a coefficient of its own",
            "layers_of_mixes": "the same for all" if arguments.same_layers else "each its own",
        },
        "cores_busy_while_idle": {"before": before, "after": after},
        "batch": {str(size): summary(batches) for size, batches in seen.items()},
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time per output token, steered and not.")
    parser.add_argument("--model", help="directory or id (none: the demo model)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 32], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64, help="output tokens a request")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kv-cache", type=int, default=2**30, help="bytes for each engine")
    parser.add_argument("--compiled", action="store_true", help="torch.compile on the CPU too")
    parser.add_argument("--engine-args", default="", help="more options for both servers")
    parser.add_argument(
        "--same-layers", action="store_true", help="distinct mixes all at the same 8 layers"
    )
    parser.add_argument(
        "--operations",
        action="store_true",
        help="an arm for each operation; written to bench/results/operations.json",
    )
    parser.add_argument("--trial", action="store_true", help="write no file")
    parser.add_argument("--plain-only", action="store_true", help="only the noise of the machine")
    arguments = parser.parse_args()
    if arguments.model is None:
        arguments.model = demo_model()
    return arguments


def main() -> None:
    arguments = parse_arguments()
    name = "operations" if arguments.operations else "overhead"
    publish(name, run(arguments), keep=not (arguments.plain_only or arguments.trial))


if __name__ == "__main__":
    main()
