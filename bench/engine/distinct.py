"""What it costs that requests are steered differently: tokens per second of a full batch against
how many distinct ways of steering share it.

One engine inside this process, so that nothing else of ours wants the processor. In every round the
same requests are run once for each count: with 0 nobody is steered, with n the requests take turns
among n ways of steering. Each way has vectors, layers and coefficients of its own, as many as any
other, so that counts differ by distinctness alone. The order turns round each time so that a slow
drift of the machine cancels. Timed is every engine step that gives each request a token; tokens per
second are of the median step, on which a pause of the machine has no say.

    python -m bench.engine.distinct [--rounds 9] [--tokens 64] [--model DIR_OR_ID]

Prints one JSON object last, and writes it to bench/results/distinct.json.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from vllm.inputs import TokensPrompt

from bench.machine import has_gpu
from bench.report import publish, say
from bench.servers import demo_model
from bench.summary import quartiles
from bench.workload import SUBJECTS, VECTORS, random_vectors
from steersman.steering.plan import PLAN_KEY, RECEIPTS, Plan, PlannedVector
from steersman.steering.plan.plan import as_float32
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint

COUNTS = (0, 1, 2, 4, 8, 16, 32)
VECTORS_EACH, LAYERS_EACH = 2, 4
FLAT = 0.05
"""Most that the slowest count above 0 may lack of the fastest's tokens per second."""


class Use(NamedTuple):
    """One vector of a way of steering, by its number."""

    vector: int
    coefficient: float
    layers: tuple[int, ...]


Way = tuple[Use, ...]


def ways(count: int, layers: int, seed: int) -> list[Way]:
    """The first `count` of the ways drawn from `seed`."""
    draw = random.Random(seed)

    def use(vector: int) -> Use:
        chosen = draw.sample(range(layers), min(LAYERS_EACH, layers))
        return Use(vector, as_float32(draw.uniform(-1, 1)), tuple(sorted(chosen)))

    return [tuple(map(use, draw.sample(range(VECTORS), VECTORS_EACH))) for _ in range(count)]


def fill(library: Library, layers: int, hidden: int, seed: int) -> list[str]:
    """Digests of the random vectors, put into `library`."""
    digests = []
    for n, rows in enumerate(random_vectors(layers, hidden, seed)):
        vector = SteeringVector(
            {HookPoint("resid_post", layer): row for layer, row in enumerate(rows)}
        )
        library.add(write_vector(vector), f"bench-{n}")
        digests.append(vector.digest)
    return digests


def plan(way: Way, digests: Sequence[str], receipt: str) -> Plan:
    return Plan(
        tuple(
            PlannedVector(
                digests[use.vector],
                use.coefficient,
                tuple(HookPoint("resid_post", layer) for layer in use.layers),
                "generation",
            )
            for use in way
        ),
        receipt,
    )


def run_batch(
    engine: Any, prompts: Sequence[list[int]], plans: Sequence[Plan | None], tokens: int
) -> list[float]:
    """Seconds of each step that gave every request a token, but for the first, which has the
    prompts. Raises RuntimeError if a request was not steered at each of its tokens."""
    from vllm import SamplingParams

    for n, (prompt, wanted) in enumerate(zip(prompts, plans, strict=True)):
        extra = None
        if wanted is not None:
            RECEIPTS.open(wanted.receipt)
            extra = {PLAN_KEY: wanted.to_json()}
        parameters = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra
        )
        engine.add_request(str(n), TokensPrompt(prompt_token_ids=prompt), parameters)
    steps: list[float] = []
    while engine.has_unfinished_requests():
        began = time.perf_counter()
        answered = len(engine.step())
        if answered == len(prompts):
            steps.append(time.perf_counter() - began)
    for wanted in filter(None, plans):
        notes = RECEIPTS.read(wanted.receipt)
        RECEIPTS.close(wanted.receipt)
        if [note.steered_tokens for note in notes] != [(tokens,) * VECTORS_EACH]:
            raise RuntimeError(f"{wanted.receipt} was not steered as asked: {notes}")
    return steps[1:]


def summary(steps: dict[str, list[list[float]]], size: int) -> dict[str, Any]:
    """From the seconds of each step, by count and round. Ratios are of a round's median steps, to
    count 0; `flat` compares the tokens per second of the counts above 0."""
    table: dict[str, Any] = {}
    for name, rounds in steps.items():
        typical = median(second for one in rounds for second in one)
        ratios = [median(base) / median(one) for one, base in zip(rounds, steps["0"], strict=True)]
        first, third = quartiles(ratios)
        table[name] = {
            "tokens_per_second": round(size / typical, 1),
            "ratio": round(median(ratios), 4),
            "ratio_quartiles": [round(first, 4), round(third, 4)],
            "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        }
    steered = [row["tokens_per_second"] for name, row in table.items() if name != "0"]
    slowest = min(steered) / max(steered)
    return {
        "counts": table,
        "slowest_to_fastest": round(slowest, 4),
        "target": 1 - FLAT,
        "flat": bool(slowest >= 1 - FLAT),
    }


def start(
    arguments: argparse.Namespace, library: str, *, plugins: str = "steersman", **settings: Any
) -> Any:
    """vLLM's engine with Steersman, in this process; `settings` of the latter."""
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    os.environ.update(VLLM_PLUGINS=plugins, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM

    on_cpu: dict[str, Any] = {} if has_gpu() else {"dtype": "float32"}
    return LLM(
        arguments.model,
        enforce_eager=not (arguments.compiled or has_gpu()),
        max_num_seqs=arguments.size,
        max_num_batched_tokens=8192,
        max_model_len=1024,
        kv_cache_memory_bytes=arguments.kv_cache,
        additional_config={"steersman": {"library": library, **settings}},
        **on_cpu,
    )


def engine_options(parser: argparse.ArgumentParser) -> None:
    """What `start` goes by, but for `size`."""
    parser.add_argument("--model", help="directory or id (none: the demo model)")
    parser.add_argument("--kv-cache", type=int, default=2**30, help="bytes")
    parser.add_argument("--compiled", action="store_true", help="torch.compile on the CPU too")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as scratch:
        say("starting vLLM with Steersman")
        llm = start(arguments, scratch)
        config = llm.llm_engine.model_config
        layers, hidden = config.get_total_num_hidden_layers(), config.get_hidden_size()
        digests = fill(Library(Path(scratch)), layers, hidden, arguments.seed)
        tokenizer = llm.get_tokenizer()
        prompts = [
            tokenizer.encode(f"Lesson {n + 1}. What to know of {SUBJECTS[n % len(SUBJECTS)]}:")
            for n in range(arguments.size)
        ]

        def batch(count: int, tokens: int) -> list[float]:
            drawn = ways(count, layers, arguments.seed)
            plans = [
                plan(drawn[n % count], digests, f"bench-{n}") if count else None
                for n in range(arguments.size)
            ]
            return run_batch(llm.llm_engine, prompts, plans, tokens)

        say("warming up")
        for count in arguments.counts:
            batch(count, 8)
        steps: dict[str, list[list[float]]] = {str(count): [] for count in arguments.counts}
        for n in range(arguments.rounds):
            for count in arguments.counts if n % 2 == 0 else reversed(arguments.counts):
                steps[str(count)].append(batch(count, arguments.tokens))
            rates = ", ".join(
                f"{name} {arguments.size / median(seen[-1]):.1f}" for name, seen in steps.items()
            )
            say(f"round {n + 1} of {arguments.rounds}, tokens a second: {rates}")
    return {
        "settings": {
            "model": Path(arguments.model).name,
            "layers": layers,
            "hidden_size": hidden,
            "batch": arguments.size,
            "rounds": arguments.rounds,
            "tokens": arguments.tokens,
            "compiled": arguments.compiled,
            "each_way": f"{VECTORS_EACH} of {VECTORS} vectors, each at {LAYERS_EACH} layers and a "
            "coefficient of its own",
        },
        **summary(steps, arguments.size),
    }


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tokens per second by distinct steerings.")
    engine_options(parser)
    parser.add_argument("--size", type=int, default=32, help="requests in a batch")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="0 among them")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64, help="output tokens a request")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", action="store_true", help="write no file")
    arguments = parser.parse_args(given)
    if 0 not in arguments.counts or len(set(arguments.counts)) < 2:
        parser.error("--counts: 0, to compare with, and others")
    if max(arguments.counts) > arguments.size:
        parser.error("--counts: no more than --size, or some would not be used")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.model = arguments.model or demo_model()
    publish("distinct", run(arguments), keep=not arguments.trial)


if __name__ == "__main__":
    main()
