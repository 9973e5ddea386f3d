"""How close the Triton kernel comes to the memory's speed, on an NVIDIA GPU.

Each measurement replays a captured CUDA graph of launches, as a decoding step does, every launch
with a residual stream and bank rows of its own. Beside it, replayed in turn with it, a graph of as
many device-to-device copies that move the same bytes. Small batches are bound by the launch, in
both; `of_copy` is the kernel's bandwidth divided by the copy's. `unsteered_us` is a launch whose
tokens are all at row -1: what the operation costs a captured graph with nobody steered.

    python -m bench.engine.kernel [--batches 1 2 4 ...] [--terms 1 2 4 8] [--hidden 4096]

Before it measures, it compares the kernel with the operation's torch form on the CPU, and stops if
they differ. Prints one JSON object last, and writes it to bench/results/kernel.json.

It has not been run on hardware yet: no GPU could be had when it was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.report import publish
from steersman.steering.ops.addition import add

TABLE_TERMS = 8
"""Terms that the tables have room for (the server's default), however many are used."""
POOL_BYTES = 2**30
"""Bank rows to draw from: more than a GPU's cache holds, where a batch uses as many."""
Work = Callable[[], None]


@dataclass(frozen=True)
class Shape:
    """One launch: `tokens` steered tokens of as many requests, `terms` vectors each."""

    tokens: int
    terms: int
    hidden: int
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """What a launch cannot do without: the stream there and back, a float32 bank row for each
        term of each token, the rows of the tables."""
        stream = 2 * self.tokens * self.hidden * self.dtype.itemsize
        rows = self.tokens * self.terms * self.hidden * 4
        tables = self.tokens * (4 + TABLE_TERMS * 12)
        return stream + rows + tables


@dataclass(frozen=True)
class Launches:
    """Tables and streams of several launches. hidden [launches, tokens, hidden], index and
    coefficient [launches, tokens, TABLE_TERMS]: every token has a table entry and vectors of its
    own. Gains are 1: the kernel reads them whatever they are."""

    hidden: Tensor
    bank: Tensor
    index: Tensor
    coefficient: Tensor
    token_entry: Tensor
    token_gain: Tensor

    @classmethod
    def of(cls, shape: Shape, launches: int, bank: Tensor) -> Launches:
        """Launches of `shape` that go through the rows of `bank` one after another, but for row 0,
        and begin again at the end."""
        used = (launches, shape.tokens, shape.terms)
        index = torch.zeros(launches, shape.tokens, TABLE_TERMS, dtype=torch.int32)
        rows = torch.arange(launches * shape.tokens * shape.terms) % (len(bank) - 1) + 1
        index[:, :, : shape.terms] = rows.to(torch.int32).view(used)
        coefficient = torch.zeros(launches, shape.tokens, TABLE_TERMS)
        # So small that thousands of replays leave the stream finite.
        coefficient[:, :, : shape.terms] = 1e-4
        device = bank.device
        return cls(
            torch.randn(launches, shape.tokens, shape.hidden, dtype=shape.dtype, device=device),
            bank,
            index.to(device),
            coefficient.to(device),
            torch.arange(shape.tokens, dtype=torch.int32, device=device),
            torch.ones(shape.tokens, TABLE_TERMS, device=device),
        )

    def run(self) -> None:
        for hidden, index, coefficient in zip(
            self.hidden, self.index, self.coefficient, strict=True
        ):
            add(hidden, self.bank, index, coefficient, self.token_entry, self.token_gain)


def copies(size: int, launches: int, device: torch.device) -> Work:
    """As many copies, each of which moves `size` bytes: half of them read, half written (rounded
    up, so that all are aligned)."""
    half = -(-size // 512) * 256
    source = torch.zeros(launches, half, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        for there, here in zip(target, source, strict=True):
            there.copy_(here)

    return run


def captured(work: Work) -> torch.cuda.CUDAGraph:
    """`work` as a CUDA graph, warmed up (Triton compiles then) on a stream beside it first."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def replay_seconds(graph: torch.cuda.CUDAGraph, replays: int) -> float:
    """Seconds of one replay, by the GPU's own clock."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1000 / replays


def measure(shape: Shape, bank: Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    launches = Launches.of(shape, arguments.launches, bank)
    kernel = captured(launches.run)
    copy = captured(copies(shape.bytes, arguments.launches, bank.device))
    kernel_times, copy_times = [], []
    for _ in range(arguments.rounds):
        kernel_times.append(replay_seconds(kernel, arguments.replays))
        copy_times.append(replay_seconds(copy, arguments.replays))
    # The graph reads the table that it was captured with: no new capture for another answer.
    launches.token_entry.fill_(-1)
    unsteered = [replay_seconds(kernel, arguments.replays) for _ in range(arguments.rounds)]
    return figures(
        shape, arguments.launches, median(kernel_times), median(copy_times), median(unsteered)
    )


def figures(
    shape: Shape, launches: int, kernel: float, copy: float, unsteered: float
) -> dict[str, Any]:
    """One line of the result from the seconds of a replay of so many launches."""
    moved = shape.bytes * launches
    return {
        "batch": shape.tokens,
        "terms": shape.terms,
        "bytes": shape.bytes,
        "us": round(1e6 * kernel / launches, 3),
        "copy_us": round(1e6 * copy / launches, 3),
        "unsteered_us": round(1e6 * unsteered / launches, 3),
        "gb_per_s": round(moved / kernel / 1e9, 1),
        "copy_gb_per_s": round(moved / copy / 1e9, 1),
        "of_copy": round(copy / kernel, 3),
    }


def check(device: torch.device, dtype: torch.dtype, hidden: int) -> float:
    """Largest difference from the torch form on the CPU, in steps of `dtype`; every third token is
    not steered, every third has gains. Raises RuntimeError over one step, or if an unsteered token
    changed."""
    shape = Shape(96, 5, hidden, dtype)
    bank = torch.randn(40, hidden, device=device)
    bank[0] = 0
    case = Launches.of(shape, 1, bank)
    case.coefficient.mul_(1e4)
    case.token_entry[::3] = -1
    case.token_gain[::3] = float("nan")
    case.token_gain[1::3] = torch.rand(shape.tokens // 3, TABLE_TERMS, device=device) * 2 - 1
    before = case.hidden[0].cpu().clone()
    expected = before.clone()
    tables = bank, case.index[0], case.coefficient[0], case.token_entry, case.token_gain
    add(expected, *(table.cpu() for table in tables))
    case.run()
    found = case.hidden[0].cpu()
    if not torch.equal(found[::3], before[::3]):
        raise RuntimeError(f"hidden {hidden}, {dtype}: a token that is not steered changed")
    step = torch.finfo(dtype).eps * expected.float().abs().clamp(min=1.0)
    # Float32 sums of six numbers in another order may differ by more than one of their steps.
    allowed = 8.0 if dtype == torch.float32 else 1.0
    worst = float(((found.float() - expected.float()).abs() / step).max())
    if not worst <= allowed:
        raise RuntimeError(f"hidden {hidden}, {dtype}: {worst:.2f} steps from the torch form")
    return worst


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    device, dtype = torch.device("cuda"), getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    checked = {
        f"{kind} {hidden}": round(check(device, getattr(torch, kind), hidden), 3)
        for kind in ("float32", "bfloat16", "float16")
        for hidden in (40, 576, 2880, arguments.hidden)
    }
    bank = torch.randn(1 + POOL_BYTES // (4 * arguments.hidden), arguments.hidden, device=device)
    bank[0] = 0
    results = []
    for tokens in arguments.batches:
        for terms in arguments.terms:
            shape = Shape(tokens, terms, arguments.hidden, dtype)
            results.append(measure(shape, bank, arguments))
            print(results[-1], flush=True)
    return {
        "device": torch.cuda.get_device_name(device),
        "settings": {
            name: getattr(arguments, name)
            for name in ("hidden", "dtype", "launches", "replays", "rounds")
        },
        "steps_from_the_torch_form": checked,
        "results": results,
    }


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Bandwidth of the steering kernel on a GPU.")
    batches = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    parser.add_argument("--batches", type=int, nargs="+", default=batches)
    parser.add_argument("--terms", type=int, nargs="+", default=[1, 2, 4, 8], help="at most 8")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--launches", type=int, default=32, help="in one graph: layers of a model")
    parser.add_argument("--replays", type=int, default=50, help="of the graph, each round")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args(given)
    if not all(1 <= terms <= TABLE_TERMS for terms in arguments.terms):
        parser.error(f"--terms: from 1 to {TABLE_TERMS}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if torch.version.cuda is None or not torch.cuda.is_available():
        sys.exit(
            "bench.engine.kernel needs an NVIDIA GPU; "
            f"torch {torch.__version__} can use none on this machine."
        )
    publish("kernel", run(arguments))


if __name__ == "__main__":
    main()
