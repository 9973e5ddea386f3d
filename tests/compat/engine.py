"""The engine of one vLLM under Steersman, in a process of its own: is it right?

    python -m tests.compat.engine FOLDER    # prints one JSON object last

`FOLDER` has a tiny model in `model`. Every check raises when it fails.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from steersman.steering.plan import Dynamic, Plan, PlannedVector, PositionRule
from steersman.vectors.file.format import HookPoint, SteeringVector, write_vector
from steersman.vectors.library.library import Library
from tests.reference.reference import ReferenceModel, Term
from tests.support.engine.engine import Answer, Ask, Engine
from tests.support.matrix.tiny import HIDDEN, LAYERS, SITES, VOCAB

TOLERANCE = 1e-4
RULES: tuple[PositionRule, ...] = ("generation", "after_prompt", "prompt", "all", (2, 70))
BANK_ROWS = 12
CHUNK = 64


def start(folder: Path) -> Engine:
    """An engine on the tiny model, with or without Steersman."""
    from vllm import LLM

    settings = {"library": str(folder / "library"), "bank_rows": BANK_ROWS}
    return Engine(
        LLM(
            str(folder / "model"),
            dtype="float32",
            enforce_eager=True,
            seed=0,
            block_size=32,
            max_model_len=256,
            max_num_batched_tokens=CHUNK,
            max_num_seqs=16,
            prefill_schedule_interval=4,
            kv_cache_memory_bytes=2**26,
            additional_config={"steersman": settings},
        )
    )


class Bench:
    """One engine, the reference, and random vectors in a library."""

    def __init__(self, folder: Path) -> None:
        self.library = Library(folder / "library")
        self.engine = start(folder)
        self.reference = ReferenceModel(folder / "model")
        self._vectors: dict[int, SteeringVector] = {}

    def vector(self, seed: int) -> SteeringVector:
        """Random tensors at every site and layer, about half as long as the stream there."""
        if seed not in self._vectors:
            generator = torch.Generator().manual_seed(seed)
            tensors: dict[HookPoint, torch.Tensor] = {
                HookPoint(site, layer): torch.randn(HIDDEN, generator=generator)
                for site in SITES
                for layer in range(LAYERS)
            }
            self._vectors[seed] = SteeringVector(tensors)
            self.library.add(write_vector(self._vectors[seed]), f"v{seed}")
        return self._vectors[seed]

    def plan(self, seed: int, keys: list[HookPoint], rule: PositionRule) -> Plan:
        return Plan((PlannedVector(self.vector(seed).digest, 0.5, tuple(sorted(keys)), rule),))

    def difference(self, ask: Ask, answer: Answer) -> float:
        """Largest difference of the answer's log-probabilities from the reference's."""
        terms = [
            Term(*key, v.coefficient, self._of(v.digest).tensors[key], _positions(v.positions))
            for v in (ask.plan.vectors if ask.plan else ())
            for key in v.terms
        ]
        tokens = [*ask.prompt, *answer.tokens]
        expected = self.reference.steered_logprobs(tokens, len(ask.prompt), terms)
        said = [*answer.prompt_logprobs, *answer.logprobs]
        first = len(tokens) - len(said) - 1
        return max(
            abs(logprob - float(expected[position, token]))
            for position, likeliest in enumerate(said, start=first)
            for token, logprob in likeliest.items()
        )

    def _of(self, digest: str) -> SteeringVector:
        return next(v for v in self._vectors.values() if v.digest == digest)


def _positions(rule: PositionRule) -> str | dict[str, int]:
    return rule if isinstance(rule, str) else {"start": rule[0], "stop": rule[1]}


def prompt(seed: int, length: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (length,), generator=generator)
    return tuple(int(n) for n in ids)


def check(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def parity(bench: Bench) -> str:
    """Every site and rule, prompts in one chunk and in several, against Hugging Face."""
    asks = [
        Ask(
            prompt(n, 90),
            bench.plan(1, [HookPoint(site, 0), HookPoint(site, 2)], rule),
            3,
            prompt_logprobs=True,
        )
        for n, (site, rule) in enumerate((site, rule) for site in SITES for rule in RULES)
    ]
    asks += [Ask(prompt(n, 40), tokens=3, prompt_logprobs=True) for n in (20, 21)]
    worst = max(map(bench.difference, asks, bench.engine.ask(*asks)))
    check(worst <= TOLERANCE, f"off the reference by {worst:.1e}")
    plain = [Ask(ask.prompt, None, 3, prompt_logprobs=True) for ask in asks[:3]]
    moved = min(map(bench.difference, asks[:3], bench.engine.ask(*plain)))
    check(moved > 100 * TOLERANCE, f"the vectors move nothing ({moved:.1e}): this proves nothing")
    return f"{worst:.1e}"


def neighbours(bench: Bench) -> str:
    """Unsteered requests say the same to the last bit whether their neighbours are steered."""
    said = []
    for plan in (None, bench.plan(2, [HookPoint("resid_post", 2)], "all")):
        bench.engine.forget()
        asks = [Ask(prompt(30 + n, 12), plan if n % 2 else None, 4) for n in range(6)]
        said.append(bench.engine.ask(*asks))
    check(said[0][::2] == said[1][::2], "an unsteered request heard of its neighbours")
    check(said[0][1::2] != said[1][1::2], "the neighbours were not steered: this proves nothing")
    return "bit for bit"


def prefix_cache(bench: Bench) -> str:
    """Blocks before the first steered token are shared, the others only under the same plan."""
    bench.engine.forget()
    plan = bench.plan(3, [HookPoint("resid_post", 0)], (70, 90))
    plain, steered = Ask(prompt(40, 100), tokens=2), Ask(prompt(40, 100), plan, 2)
    cached = []
    for ask in (plain, steered, steered, plain):
        (answer,) = bench.engine.ask(ask)
        check(bench.difference(ask, answer) <= TOLERANCE, "an answer from the cache is wrong")
        cached.append(answer.cached)
    check(cached == [0, 64, 96, 96], f"cached tokens: {cached}, expected [0, 64, 96, 96]")
    return "64 shared, 96 its own"


def waiting(bench: Bench) -> str:
    """Requests that need more bank rows than there are wait for each other."""
    keys: list[HookPoint] = [
        HookPoint(site, layer) for site in SITES[:2] for layer in range(LAYERS)
    ]
    asks = [Ask(prompt(50 + n, 8), bench.plan(10 + n, keys, "all"), 3) for n in range(4)]
    answers = bench.engine.ask(*asks)
    check(
        all(answer.finish_reason == "length" for answer in answers),
        f"finish reasons {[answer.finish_reason for answer in answers]}",
    )
    worst = max(map(bench.difference, asks, answers))
    check(worst <= TOLERANCE, f"off the reference by {worst:.1e}")
    return f"{len(asks)} x {len(keys)} rows in a bank of {BANK_ROWS}"


def dynamic(bench: Bench) -> str:
    """Answers whose coefficients come from companions, which run beside them. Exact values are in
    tests/engine/test_dynamic.py; here is whether vLLM's scheduler runs them to their end."""
    settings = Dynamic(start=2.0, top_p=0.9, mean=True)
    terms = (HookPoint("resid_post", 1),)
    vectors = tuple(
        PlannedVector(bench.vector(seed).digest, 2.0, terms, "generation") for seed in (4, 5)
    )
    asks = [Ask(prompt(80 + n, 40), Plan(vectors, dynamic=settings), 6) for n in range(2)]
    said = bench.engine.noted(*asks, Ask(prompt(82, 40), tokens=6))
    for answer, _ in said:
        check(answer.finish_reason == "length", f"ended in {answer.finish_reason}")
    for _, notes in said[:2]:
        choices = [choice.coefficients for note in notes for choice in note.choices]
        check(len(choices) == 6, f"{len(choices)} choices of coefficients for 6 tokens")
        check(max(map(max, choices)) > 0, "no coefficient was over 0: this proves nothing")
    return f"{len(asks)} answers of {len(vectors)} properties"


def refusals(bench: Bench) -> str:
    """What cannot be steered is refused: at the door, or, where only the worker knows, in error."""
    from vllm.exceptions import VLLMValidationError

    unknown = Plan((PlannedVector(f"sha256:{0:064x}", 0.5, (HookPoint("resid_post", 0),), "all"),))
    try:
        bench.engine.ask(Ask(prompt(60, 8), unknown, 1))
        check(False, "a vector that is not in the library was not refused")
    except VLLMValidationError:
        pass
    stepped = SteeringVector({HookPoint("resid_post", 0): torch.ones(4, HIDDEN)})
    bench.library.add(write_vector(stepped), "stepped")
    plan = Plan((PlannedVector(stepped.digest, 0.5, (HookPoint("resid_post", 0),), "generation"),))
    doomed, plain = bench.engine.ask(Ask(prompt(61, 8), plan, 2), Ask(prompt(62, 8), tokens=2))
    check((doomed.finish_reason, doomed.tokens) == ("error", ()), "it ran unsteered")
    check(plain.finish_reason == "length", "its neighbour ended too")
    return "at the door and in the worker"


def books(bench: Bench) -> str:
    """At the end nothing is leased."""
    bench.engine.ask(Ask(prompt(70, 8), tokens=1), Ask(prompt(71, 8), tokens=2))
    status = bench.engine.status()
    check(status["bank_rows_used"] == 0 and status["requests"] == 0, f"leaked: {status}")
    return "no lease left"


CHECKS = (parity, neighbours, prefix_cache, waiting, dynamic, refusals, books)


def main() -> int:
    bench = Bench(Path(sys.argv[1]))
    found: dict[str, Any] = {name.__name__: name(bench) for name in CHECKS}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
