"""What a change costs: this checkout beside another one, and both beside vLLM without the plugin.

Processes of one and the same program differ by a quarter on a machine of two cores, so each server
is started several times, in another order each time. In each round all arms run once, in turns. An
arm's figure is the median over starts of its median over rounds, divided by plain vLLM's in the
same round: of the time per output token, and of the processor time that the server took for it.

    git worktree add ../before COMMIT
    python -m bench.trees ../before [--starts 3] [--rounds 3] [--module steersman.client.cli]

Prints one JSON object last, and writes it to bench/results/trees.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx
from transformers import AutoConfig

from bench.overhead import engine_options
from bench.report import publish, say
from bench.servers import Server, demo_model, plain_vllm, running, steersman
from bench.streams import send
from bench.workload import Configuration, bodies, check_receipts, configurations, upload_vectors

HERE = Path(__file__).parent.parent
SEED = 0


class Seen(NamedTuple):
    """One batch of one arm."""

    start: int
    size: int
    arm: str
    round: int
    seconds: float
    """Of a token."""
    cpu: float
    """Seconds of processor time of the server for a token of the batch."""


@contextmanager
def servers(start: int, arguments: argparse.Namespace) -> Iterator[dict[str, Server]]:
    """The three of one start, in an order of its own."""
    options = engine_options(arguments)
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    common = {"VLLM_CPU_OMP_THREADS_BIND": cores}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steersman-bench-")))
        trees = {"before": (arguments.before, arguments.module), "now": (HERE, None)}
        found = {}
        for n in range(3):
            name = ("plain", "before", "now")[(n + start) % 3]
            environment = {**common, "VLLM_PLUGINS": "" if name == "plain" else "steersman"}
            command, tree = plain_vllm(arguments.model, options), None
            if name != "plain":
                tree, module = trees[name]
                command = steersman(arguments.model, options, *([module] if module else []))
                environment |= {"STEERSMAN_HOME": str(scratch / name), "PYTHONPATH": str(tree)}
            say(f"start {start + 1}: {name}")
            log = scratch / f"{name}.log"
            found[name] = stack.enter_context(running(name, command, environment, log, cwd=tree))
        yield found


def arms(found: dict[str, Server], layers: int) -> dict[str, Configuration]:
    """Plain vLLM twice, and each checkout idle and steering."""
    made = {}
    for tree in ("before", "now"):
        for one in configurations(found["plain"], found[tree], layers, SEED):
            plain = one.name.startswith("plain")
            made[one.name if plain else f"{tree}, {one.name}"] = one
    return made


async def measure(
    start: int, these: dict[str, Configuration], arguments: argparse.Namespace
) -> list[Seen]:
    seen = []
    unlimited = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=unlimited, trust_env=False) as client:
        for size in arguments.sizes:
            for one in these.values():
                check_receipts(one, await send(client, one.server.url, bodies(one, size, 8)))
            for n in range(arguments.rounds):
                for arm, one in list(these.items())[:: 1 if n % 2 == 0 else -1]:
                    before = one.server.cpu_seconds()
                    batch = await send(client, one.server.url, bodies(one, size, arguments.tokens))
                    cpu = (one.server.cpu_seconds() - before) / arguments.tokens / size
                    seen.append(Seen(start, size, arm, n, batch.seconds, cpu))
            say(f"start {start + 1}, batch of {size}: done")
    return seen


def ratios(seen: Sequence[Seen], size: int, what: str) -> dict[str, Any]:
    """Per arm: the median over starts, and what each start gave."""
    here = [one for one in seen if one.size == size]
    plain = {(one.start, one.round): getattr(one, what) for one in here if one.arm == "plain"}
    table = {}
    for arm in dict.fromkeys(one.arm for one in here):
        by_start: dict[int, list[float]] = {}
        for one in here:
            if one.arm == arm:
                ratio = getattr(one, what) / plain[one.start, one.round]
                by_start.setdefault(one.start, []).append(ratio)
        starts = [round(median(found), 3) for found in by_start.values()]
        table[arm] = {"ratio": round(median(starts), 3), "starts": starts}
    return table


def commit(tree: Path) -> str:
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    config = AutoConfig.from_pretrained(arguments.model).get_text_config()
    seen: list[Seen] = []
    for start in range(arguments.starts):
        with servers(start, arguments) as found:
            for tree in ("before", "now"):
                upload_vectors(found[tree], config.num_hidden_layers, config.hidden_size, SEED)
            these = arms(found, config.num_hidden_layers)
            seen += asyncio.run(measure(start, these, arguments))
        for size in arguments.sizes:
            say(f"batch of {size}, processor time: {ratios(seen, size, 'cpu')}")
    return {
        "before": commit(arguments.before),
        "now": commit(HERE),
        "starts": arguments.starts,
        "rounds": arguments.rounds,
        "batch": {
            str(size): {what: ratios(seen, size, what) for what in ("seconds", "cpu")}
            for size in arguments.sizes
        },
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="folder of the other checkout")
    parser.add_argument("--module", help="of its command (none: as here)")
    parser.add_argument("--model", help="directory or id (none: the demo model)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8], help="batch sizes (1 8)")
    parser.add_argument("--starts", type=int, default=3, help="of each server (3)")
    parser.add_argument("--rounds", type=int, default=3, help="a start (3)")
    parser.add_argument("--tokens", type=int, default=48, help="output tokens a request (48)")
    parser.add_argument("--kv-cache", type=int, default=2**28, help="bytes for each engine")
    parser.add_argument("--compiled", action="store_true", help="torch.compile on the CPU too")
    parser.add_argument("--engine-args", default="", help="more options for all servers")
    parser.add_argument("--trial", action="store_true", help="write no file")
    arguments = parser.parse_args()
    arguments.before = arguments.before.resolve()
    arguments.model = arguments.model or demo_model()
    return arguments


def main() -> None:
    arguments = parse_arguments()
    publish("trees", run(arguments), keep=not arguments.trial)


if __name__ == "__main__":
    main()
