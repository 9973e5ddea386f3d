"""Dynamic composition against constant coefficients: fluency at equal strength of two properties.

Two demo vectors, `cheerful` and `first_person`, steer together. 24 neutral prompts, none of which
had a part in choosing the vectors' defaults, are answered with

    constant      both vectors at one coefficient, at every token
    dynamic sum   Dynamic Activation Composition (Scalena, Sarti and Nissim, 2024), both vectors
                  tried and capped at one coefficient, divergences as in the paper
    dynamic mean  the same, each divergence divided by its number of tokens, as in the authors' code
    start         one coefficient at the first token, then nothing
    diminishing   a coefficient that falls to 0 in a straight line

each at several coefficients, greedily as in the paper's code, and the first two also sampled at
temperature 1, each prompt from a seed of its own: strong steering makes greedy text of so small a
model run in circles, which perplexity takes for fluency, and sampled text does not. Measured is how
much each answer has of each property (VADER's compound score; I, me and my in 100 words) and its
perplexity under the unsteered model, by the same engine.

Each way is then a path from the unsteered answers on, coefficient by coefficient. It comes to a
strength where it first does so, in a straight line from one coefficient to the next. There its
perplexity is compared with that of `constant` at the same strength: of each property, and of both
together, which is the mean of the two gains in standard deviations of the unsteered answers.
Intervals are of 95%, from draws of prompts with replacement, the same for both sides.

    python -m bench.engine.composition [--model DIR] [--trial]

Needs the extras `demo` and `measure`. About a quarter of an hour on one free core. Prints one JSON
object last, and writes it to bench/results/composition.json, and the figure to
docs/figures/composition.png.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.inputs import TokensPrompt

from bench.engine.composition_figure import draw
from bench.engine.distinct import start
from bench.report import publish, say
from bench.servers import demo_model
from steersman.steering.plan import PLAN_KEY, RECEIPTS, Dynamic, Plan, PlannedVector
from steersman.steering.plan.plan import as_float32
from steersman.vectors.demo.make import fill_library
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tools.demo.measures import MEASURES, repetition

Array = NDArray[np.float64]

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "composition.png"
PROPERTIES = ("cheerful", "first_person")
TOP_P = 0.95
CONSTANT = "constant"
BOTH = "both"
GRIDS: Mapping[str, tuple[float, ...]] = {
    CONSTANT: (0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
    "dynamic sum": (1.0, 2.0, 4.0),
    "dynamic mean": (16.0,),
    "start": (6.0,),
    "diminishing": (2.0,),
}
"""Coefficients, or what they start from and may be at most. They reach further where less of them
comes out."""
TEMPERATURES: Mapping[str, float] = {"greedy": 0.0, "sampled": 1.0}
WAYS: Mapping[str, tuple[str, ...]] = {"greedy": tuple(GRIDS), "sampled": tuple(GRIDS)[:2]}
"""Sampled are only the two that are compared; the others would take as long again."""
LEVELS = (0.2, 0.4, 0.6, 0.8)
"""Where two paths are compared, in parts of the strength that both come to."""
PROMPTS = (
    "Describe a walk to the post office.",
    "Tell me about a farm.",
    "Write a few sentences about a kitchen table.",
    "What did they talk about at dinner?",
    "Describe a bicycle ride.",
    "Tell me about a day at school.",
    "Write a short paragraph about a small shop.",
    "How does a week in the village go by?",
    "Describe a car park.",
    "Tell me about the people upstairs.",
    "Write a few sentences about a suitcase.",
    "What was on the news yesterday?",
    "Describe an evening at home.",
    "Tell me about a visit to the doctor.",
    "Write a short paragraph about a staircase.",
    "How did the football match end?",
    "Describe a forest in spring.",
    "Tell me about your job.",
    "Write a few sentences about a clock.",
    "What happens at a bus stop?",
    "Describe a colleague.",
    "Tell me about a film you saw.",
    "Write a short paragraph about a lake.",
    "What is it like to share a flat?",
)


@dataclass(frozen=True)
class Point:
    """The answers of one way at one coefficient; 0 is unsteered."""

    coefficient: float
    measures: Array
    """[properties, prompts]."""
    surprise: Array
    """[prompts]: mean negative log-likelihood a token under the unsteered model."""
    repeated: Array
    """[prompts]: share of three-word runs that occurred before."""
    chosen: tuple[Array, ...] = ()
    """Of a dynamic way, for each prompt [tokens, properties]: the coefficients that came out."""


def plan(
    way: str, coefficient: float, vectors: Sequence[PlannedVector], tokens: int, receipt: str
) -> Plan:
    """`vectors` together in one way. A dynamic one is tried at what it is capped at."""
    top = as_float32(coefficient)
    schedules = {
        "start": (top,),
        "diminishing": tuple(as_float32(top * (1 - i / tokens)) for i in range(tokens)),
    }
    steered = (replace(v, coefficient=top, schedule=schedules.get(way, ())) for v in vectors)
    dynamic = way.startswith("dynamic")
    return Plan(
        tuple(steered), receipt, Dynamic(top, TOP_P, way == "dynamic mean") if dynamic else None
    )


class Asker:
    """Asks one engine all prompts at once, and what the unsteered model makes of the answers."""

    def __init__(self, llm: Any, vectors: Sequence[PlannedVector], prompts: Sequence[str]) -> None:
        tokenizer = llm.get_tokenizer()
        turns = ([{"role": "user", "content": prompt}] for prompt in prompts)
        texts = (
            tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            for turn in turns
        )
        self._prompts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        self._llm = llm
        self._vectors = vectors

    def point(self, way: str, coefficient: float, temperature: float, tokens: int) -> Point:
        """Raises RuntimeError if an answer was not steered as asked."""
        from vllm import SamplingParams

        plans = [
            plan(way, coefficient, self._vectors, tokens, f"{n}") if coefficient else None
            for n in range(len(self._prompts))
        ]
        for wanted in filter(None, plans):
            RECEIPTS.open(wanted.receipt)
        asked = [
            SamplingParams(
                temperature=temperature,
                seed=n if temperature else None,
                max_tokens=tokens,
                extra_args={PLAN_KEY: wanted.to_json()} if wanted else None,
            )
            for n, wanted in enumerate(plans)
        ]
        prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in self._prompts]
        outputs = self._llm.generate(prompts, asked, use_tqdm=False)
        answers = [list(output.outputs[0].token_ids) for output in outputs]
        texts = [output.outputs[0].text for output in outputs]
        chosen = [
            _collect(wanted, len(answer))
            for wanted, answer in zip(plans, answers, strict=True)
            if wanted
        ]
        return Point(
            coefficient,
            np.array([[MEASURES[name].of(text) for text in texts] for name in PROPERTIES]),
            self._surprise(answers),
            np.array([repetition(text) for text in texts]),
            tuple(chosen) if way.startswith("dynamic") else (),
        )

    def _surprise(self, answers: Sequence[list[int]]) -> Array:
        """For each answer, as the very tokens that were generated, an end of turn among them."""
        from vllm import SamplingParams

        both = [prompt + answer for prompt, answer in zip(self._prompts, answers, strict=True)]
        parameters = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in both], parameters, use_tqdm=False
        )
        found = []
        for output, answer in zip(outputs, answers, strict=True):
            rows = zip(output.prompt_logprobs[-len(answer) :], answer, strict=True)
            found.append(-np.mean([row[token].logprob for row, token in rows]))
        return np.array(found)


def _collect(wanted: Plan, tokens: int) -> Array:
    """The coefficients of an answer of so many tokens [tokens, properties], none of a static one.
    Raises RuntimeError if it was not steered as `wanted`."""
    notes = RECEIPTS.read(wanted.receipt)
    RECEIPTS.close(wanted.receipt)
    steered = tuple(min(tokens, len(v.schedule) or tokens) for v in wanted.vectors)
    choices = [choice.coefficients for note in notes for choice in note.choices]
    expected = tokens if wanted.dynamic else 0
    if [note.steered_tokens for note in notes] != [steered] or len(choices) != expected:
        raise RuntimeError(f"an answer of {tokens} tokens was not steered as asked: {notes}")
    return np.array(choices)


def weights(prompts: int, draws: int, seed: int) -> Array:
    """[1 + draws, prompts]: how much each prompt counts; in the first row all alike."""
    drawn = np.random.default_rng(seed).multinomial(prompts, [1 / prompts] * prompts, size=draws)
    return np.vstack([np.ones(prompts), drawn]) / prompts


def interval(drawn: Array) -> list[float]:
    """The middle 95% of what draws gave; those that gave nothing are left out."""
    return [round(float(edge), 4) for edge in np.nanpercentile(drawn, [2.5, 97.5])]


def gains(path: Sequence[Point], weight: Array) -> dict[str, Array]:
    """How much more of each property than the unsteered answers have, and of both:
    [draws, points]."""
    means = np.einsum("kjp,dp->jdk", np.array([point.measures for point in path]), weight)
    gained = means - means[:, :, :1]
    spread = path[0].measures.std(axis=1, ddof=1)
    return {
        **dict(zip(PROPERTIES, gained, strict=True)),
        BOTH: (gained / spread[:, None, None]).mean(axis=0),
    }


def surprises(path: Sequence[Point], weight: Array) -> Array:
    """Log of the geometric mean of the answers' perplexities: [draws, points]."""
    logs: Array = weight @ np.array([point.surprise for point in path]).T
    return logs


def along(values: Array, gained: Array, level: float) -> float:
    """The value where a path first comes to `level` of gain, in a straight line from point to
    point; NaN if it never does."""
    for n in range(len(gained) - 1):
        before, after = gained[n], gained[n + 1]
        if before <= level <= after:
            part = (level - before) / (after - before) if after > before else 0.0
            return float(values[n] + part * (values[n + 1] - values[n]))
    return float("nan")


def compare(one: Sequence[Point], other: Sequence[Point], weight: Array) -> dict[str, Any]:
    """Perplexity of `other` over that of `one` at equal strength, for each kind of strength."""
    gained = gains(one, weight), gains(other, weight)
    logs = surprises(one, weight), surprises(other, weight)
    return {
        kind: _compare((gained[0][kind], gained[1][kind]), logs) for kind in (*PROPERTIES, BOTH)
    }


def _compare(gained: tuple[Array, Array], logs: tuple[Array, Array]) -> dict[str, Any]:
    """Of two paths, each [draws, points]."""
    common = float(min(side[0].max() for side in gained))
    found: dict[str, Any] = {"common_gain": round(common, 4), "levels": []}
    if common <= 0:
        return found
    # By level, path and draw.
    there = np.array(
        [
            [
                [along(*draw, part * common) for draw in zip(lines, strengths, strict=True)]
                for lines, strengths in zip(logs, gained, strict=True)
            ]
            for part in LEVELS
        ]
    )
    for part, (mine, theirs) in zip(LEVELS, there, strict=True):
        ratios = np.exp(theirs - mine)
        found["levels"].append(
            {
                "gain": round(part * common, 4),
                "perplexities": [round(float(np.exp(side[0])), 3) for side in (mine, theirs)],
                "ratio": round(float(ratios[0]), 4),
                "interval": interval(ratios[1:]),
            }
        )
    # A draw counts if both of its paths come to every level.
    ratios = np.exp((there[:, 1] - there[:, 0]).mean(axis=0))
    return found | {
        "ratio": round(float(ratios[0]), 4),
        "interval": interval(ratios[1:]),
        "draws_that_count": round(float(np.isfinite(ratios[1:]).mean()), 3),
    }


def described(path: Sequence[Point], weight: Array) -> list[dict[str, Any]]:
    """The points as JSON."""
    logs = np.exp(surprises(path, weight))
    found = []
    for n, point in enumerate(path):
        row: dict[str, Any] = {
            "coefficient": point.coefficient,
            "measures": {
                name: round(float(of.mean()), 4)
                for name, of in zip(PROPERTIES, point.measures, strict=True)
            },
            "perplexity": round(float(logs[0, n]), 3),
            "interval": interval(logs[1:, n]),
            "repetition": round(float(point.repeated.mean()), 4),
        }
        if point.chosen:
            row["chosen"] = _chosen(point)
        found.append(row)
    return found


def _chosen(point: Point) -> dict[str, dict[str, float]]:
    """For each property: the mean over all tokens of all answers, over their first tokens, and the
    share of tokens that got the most they may."""
    tokens = np.concatenate(point.chosen)
    first = np.array([answer[0] for answer in point.chosen])
    at_most = tokens >= as_float32(point.coefficient)
    return {
        name: {
            "mean": round(float(tokens[:, n].mean()), 4),
            "first_token": round(float(first[:, n].mean()), 4),
            "at_most": round(float(at_most[:, n].mean()), 4),
        }
        for n, name in enumerate(PROPERTIES)
    }


def answer_all(asker: Asker, tokens: int) -> dict[str, dict[str, list[Point]]]:
    """The paths, by decoding and way; each begins with the unsteered answers."""
    steps = sum(1 + sum(len(GRIDS[way]) for way in ways) for ways in WAYS.values())
    done = 0

    def ask(decoding: str, way: str, coefficient: float) -> Point:
        nonlocal done
        began, done = time.monotonic(), done + 1
        point = asker.point(way, coefficient, TEMPERATURES[decoding], tokens)
        measures = ", ".join(f"{of.mean():.2f}" for of in point.measures)
        say(
            f"{done} of {steps}: {decoding}, {way if coefficient else 'unsteered'} "
            f"{coefficient:g}: {measures}, perplexity {np.exp(point.surprise.mean()):.2f} "
            f"({time.monotonic() - began:.0f} s)"
        )
        return point

    paths: dict[str, dict[str, list[Point]]] = {}
    for decoding, ways in WAYS.items():
        unsteered = ask(decoding, CONSTANT, 0.0)
        paths[decoding] = {
            way: [unsteered, *(ask(decoding, way, coefficient) for coefficient in GRIDS[way])]
            for way in ways
        }
    return paths


def judged(paths: Mapping[str, Mapping[str, Sequence[Point]]], draws: int) -> dict[str, Any]:
    """Points and comparisons as JSON, by decoding."""
    weight = weights(len(PROMPTS), draws, seed=0)
    found = {}
    for decoding, ways in paths.items():
        say(f"{decoding}: comparing at equal strength, {draws} draws of prompts")
        found[decoding] = {
            "paths": {way: described(path, weight) for way, path in ways.items()},
            "compared_with_constant": {
                way: compare(ways[CONSTANT], path, weight)
                for way, path in ways.items()
                if way != CONSTANT
            },
        }
    return found


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as scratch:
        library = Path(scratch)
        fill_library(Path(arguments.model), library, say)
        entries = [Library(library).resolve(name) for name in PROPERTIES]
        vectors = [
            PlannedVector(
                entry.digest,
                1.0,
                tuple(HookPoint("resid_post", at) for at in entry.layers),
                "generation",
            )
            for entry in entries
        ]
        say("starting vLLM with Steersman")
        paths = answer_all(Asker(start(arguments, scratch), vectors, PROMPTS), arguments.tokens)
    return {
        "settings": {
            "model": Path(arguments.model).name,
            "vectors": {entry.name: entry.digest for entry in entries},
            "layers": {entry.name: list(entry.layers) for entry in entries},
            "measures": {name: MEASURES[name].label for name in PROPERTIES},
            "prompts": len(PROMPTS),
            "tokens": arguments.tokens,
            "temperatures": dict(TEMPERATURES),
            "top_p": TOP_P,
            "draws": arguments.draws,
        },
        "decodings": judged(paths, arguments.draws),
    }


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="the converted demo model's folder (none: made if need be)")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of an answer (48)")
    parser.add_argument("--draws", type=int, default=2000, help="of prompts, for intervals (2000)")
    parser.add_argument("--kv-cache", type=int, default=2**30, help="bytes (1 GiB)")
    parser.add_argument("--compiled", action="store_true", help="torch.compile on the CPU too")
    parser.add_argument("--trial", action="store_true", help="write neither JSON nor figure")
    arguments = parser.parse_args(given)
    arguments.size = 4 * len(PROMPTS)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.model = arguments.model or demo_model()
    found = run(arguments)
    if not arguments.trial:
        draw(FIGURE, found)
        say(f"written to {FIGURE}")
    publish("composition", found, keep=not arguments.trial)


if __name__ == "__main__":
    main()
