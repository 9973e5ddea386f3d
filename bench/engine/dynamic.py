"""What dynamic composition costs: its time per token, what it takes from others, and how both grow
with the text.

One engine inside this process. A dynamic request of k = 2 properties is four streams, in one
or two engine steps a token. In every round each of these runs once, the order turning round each
time:

- one static request of two vectors alone, and one dynamic request alone, at each length of text;
- 16 ordinary requests, and the same beside a dynamic request that outlasts them.

Then the way without a cache, as the paper's code has it: k + 2 forwards of the whole text for each
token, here by Hugging Face's model in the same process, at the same lengths.

    python -m bench.engine.dynamic [--rounds 5] [--tokens 32] [--model DIR_OR_ID]

Prints one JSON object last, and writes it to bench/results/dynamic.json.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from vllm.inputs import TokensPrompt

from bench.engine.distinct import engine_options, fill, start
from bench.report import publish, say
from bench.servers import demo_model
from bench.summary import quartiles
from bench.workload import SUBJECTS
from steersman.steering.plan import PLAN_KEY, Dynamic, Plan, PlannedVector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint

PROPERTIES = 2
LENGTHS = (50, 200, 800)
"""Tokens of text when the timed tokens begin."""
NEIGHBOURS = 16
TARGETS = {"dynamic_to_static": 2.6, "neighbours": 1.25}


class Job(NamedTuple):
    """One request, and how many tokens it is to have."""

    prompt: list[int]
    plan: Plan | None
    tokens: int


def seconds_per_token(engine: Any, jobs: Sequence[Job], timed: int) -> float:
    """Median seconds from one token of the first `timed` jobs to its next; ends when they end.

    The first two tokens are left out: their time is that of the prompts.
    """
    from vllm import SamplingParams

    for n, job in enumerate(jobs):
        extra = None if job.plan is None else {PLAN_KEY: job.plan.to_json()}
        parameters = SamplingParams(
            temperature=0, max_tokens=job.tokens, ignore_eos=True, extra_args=extra
        )
        engine.add_request(str(n), TokensPrompt(prompt_token_ids=job.prompt), parameters)
    at: dict[str, list[float]] = {str(n): [] for n in range(timed)}
    open_ones = set(at)
    while open_ones:
        for output in engine.step():
            if output.request_id in at:
                at[output.request_id].append(time.perf_counter())
                if output.finished:
                    open_ones.discard(output.request_id)
    engine.abort_request([str(n) for n in range(timed, len(jobs))])
    while engine.has_unfinished_requests():
        engine.step()
    return median(b - a for times in at.values() for a, b in itertools.pairwise(times[1:]))


def plans(digests: Sequence[str], layer: int) -> tuple[Plan, Plan]:
    """A static and a dynamic plan of the same vectors."""
    vectors = tuple(
        PlannedVector(digest, 0.5, (HookPoint("resid_post", layer),), "generation")
        for digest in digests[:PROPERTIES]
    )
    return Plan(vectors), Plan(vectors, "", Dynamic(0.5, 0.95, mean=False))


def without_cache(model: str, ids: Sequence[int]) -> Callable[[int], float]:
    """Seconds of a token as a function of the text's length: k + 2 forwards of the whole text."""
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def seconds(length: int) -> float:
        text = torch.tensor([list(ids[:length])])
        began = time.perf_counter()
        with torch.no_grad():
            for _ in range(PROPERTIES + 2):
                reference(input_ids=text, use_cache=False, logits_to_keep=1)
        return time.perf_counter() - began

    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Of rounds: the median ratio and its spread."""
    found = [a / b for a, b in zip(above, below, strict=True)]
    first, third = quartiles(found)
    return {
        "ratio": round(median(found), 3),
        "quartiles": [round(first, 3), round(third, 3)],
        "range": [round(min(found), 3), round(max(found), 3)],
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as scratch:
        say("starting vLLM with Steersman")
        llm = start(arguments, scratch)
        config = llm.llm_engine.model_config
        layers, hidden = config.get_total_num_hidden_layers(), config.get_hidden_size()
        digests = fill(Library(Path(scratch)), layers, hidden, arguments.seed)
        static, dynamic = plans(digests, layers // 2)
        text = " ".join(
            f"Of {subject}, {n} things are to be known."
            for n, subject in zip(range(200), itertools.cycle(SUBJECTS), strict=False)
        )
        ids = llm.get_tokenizer().encode(text)
        crowd = [Job(ids[n : n + 30], None, arguments.tokens) for n in range(NEIGHBOURS)]
        long = Job(ids[100:130], dynamic, 2 * arguments.tokens)
        runs: dict[str, tuple[list[Job], int]] = {
            "crowd": (crowd, NEIGHBOURS),
            "crowd and dynamic": ([*crowd, long], NEIGHBOURS),
        }
        for length in LENGTHS:
            for name, plan in (("static", static), ("dynamic", dynamic)):
                runs[f"{name} {length}"] = ([Job(ids[:length], plan, arguments.tokens)], 1)
        seen: dict[str, list[float]] = {name: [] for name in runs}
        for n in range(-1, arguments.rounds):
            for name in runs if n % 2 == 0 else reversed(runs):
                took = seconds_per_token(llm.llm_engine, *runs[name])
                if n >= 0:  # The first round is to warm up.
                    seen[name].append(took)
            if n >= 0:
                last = ", ".join(f"{name} {1000 * times[-1]:.1f}" for name, times in seen.items())
                say(f"round {n + 1} of {arguments.rounds}, ms a token: {last}")
        reference = without_cache(arguments.model, ids)
        reference(LENGTHS[0])
        forwards: dict[int, list[float]] = {length: [] for length in LENGTHS}
        for n in range(arguments.rounds):
            for length in LENGTHS:
                forwards[length].append(reference(length))
            say(f"without a cache, round {n + 1} of {arguments.rounds}")
    first = LENGTHS[0]
    alone = ratios(seen[f"dynamic {first}"], seen[f"static {first}"])
    others = ratios(seen["crowd and dynamic"], seen["crowd"])
    return {
        "settings": {
            "model": Path(arguments.model).name,
            "properties": PROPERTIES,
            "rounds": arguments.rounds,
            "tokens": arguments.tokens,
        },
        "dynamic_to_static": {**alone, "target": TARGETS["dynamic_to_static"],
                              "met": alone["ratio"] <= TARGETS["dynamic_to_static"]},
        "neighbours": {**others, "requests": NEIGHBOURS, "target": TARGETS["neighbours"],
                       "met": others["ratio"] <= TARGETS["neighbours"]},
        "ms_per_token_by_length": {
            str(length): {
                "static": round(1000 * median(seen[f"static {length}"]), 1),
                "dynamic": round(1000 * median(seen[f"dynamic {length}"]), 1),
                "without_cache": round(1000 * median(forwards[length]), 1),
            }
            for length in LENGTHS
        },
    }  # fmt: skip


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What dynamic composition costs.")
    engine_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="timed tokens of each request")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", action="store_true", help="write no file")
    arguments = parser.parse_args(given)
    arguments.size = NEIGHBOURS + PROPERTIES + 2
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.model = arguments.model or demo_model()
    publish("dynamic", run(arguments), keep=not arguments.trial)


if __name__ == "__main__":
    main()
