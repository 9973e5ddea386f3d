"""Dynamic requests in a batch with others, the drafts of their companions as a test wants them.

Its functions run in the process of the engine (`RemoteEngine.do`), and take and give plain data.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest

from steersman.steering.plan import PLAN_KEY, RECEIPTS, Choice, Plan, WorkerNote
from steersman.steering.plan.dynamic import LastToken
from steersman.steering.worker.composition import Composer, Guess
from tests.support.engine.engine import Answer, Engine, answer

KINDS = ("own", "right", "wrong", "random")
"""Drafts as the product makes them, and those that a test makes."""


class Job(NamedTuple):
    """One request."""

    prompt: tuple[int, ...]
    plan: Plan | None = None
    tokens: int = 12
    options: Mapping[str, Any] = {}
    """Of `SamplingParams`; greedy without."""
    adapter: str | None = None
    """Folder of a LoRA adapter."""


class Answered(NamedTuple):
    """What became of a job."""

    answer: Answer
    notes: list[WorkerNote]
    """None for a request that is not steered."""
    text: str

    @property
    def trace(self) -> list[float]:
        """All coefficients and divergences, in order."""
        return [x for note in self.notes for c in note.choices for x in (*c[0], *c[1])]


class Run(NamedTuple):
    """What a batch came to."""

    answered: list[Answered]
    drafts: Counter[bool]
    """How many a test made, by whether they were right."""
    kept: int
    """Drafts that were the answer's token, by the receipts."""
    drafted: int
    left: tuple[int, ...]
    """What it left behind, as `Engine.left` counts it."""


def ask(
    engine: Engine, jobs: Sequence[Job], kind: str = "own", truth: Sequence[Sequence[int]] = ()
) -> Run:
    """All jobs at once. `truth`: the answer of each, which drafts other than the product's own are
    made from."""
    prompts = [TokensPrompt(prompt_token_ids=list(job.prompt)) for job in jobs]
    adapters = [None if job.adapter is None else LoRARequest("a", 1, job.adapter) for job in jobs]
    texts = {f"j{n}": (len(job.prompt), one) for n, (job, one) in enumerate(zip(jobs, truth))}  # noqa: B905
    for n in range(len(jobs)):
        RECEIPTS.open(f"j{n}")
    try:
        with forced(kind, texts) as made:
            outputs = engine.llm.generate(
                prompts,
                [parameters(n, job) for n, job in enumerate(jobs)],
                use_tqdm=False,
                **({"lora_request": adapters} if any(adapters) else {}),  # type: ignore[arg-type]
            )
        notes = [RECEIPTS.read(f"j{n}") for n in range(len(jobs))]
    finally:
        for n in range(len(jobs)):
            RECEIPTS.close(f"j{n}")
    paces = [note.pace for found in notes for note in found]
    return Run(
        [
            Answered(answer(output), found, output.outputs[0].text)
            for output, found in zip(outputs, notes, strict=True)
        ],
        made,
        sum(pace.kept for pace in paces),
        sum(pace.drafts for pace in paces),
        engine.left(),
    )


def parameters(n: int, job: Job) -> SamplingParams:
    """Those of the n-th job, whose receipt is `j` and its number."""
    plain = {"temperature": 0, "max_tokens": job.tokens, "ignore_eos": True, "logprobs": 3}
    params = SamplingParams(**{**plain, **job.options})
    if job.plan is not None:
        params.extra_args = {PLAN_KEY: replace(job.plan, receipt=f"j{n}").to_json()}
    return params


@contextmanager
def forced(kind: str, texts: Mapping[str, tuple[int, Sequence[int]]]) -> Iterator[Counter[bool]]:
    """Drafts of this kind, for the answers with these receipts: the length of each prompt, and the
    answer to it. Gives how many were right and wrong."""
    made = Counter[bool]()
    chance = random.Random(1)

    def draft(
        self: Composer, name: str, plan: Plan, last: LastToken, choice: Choice, guess: Guess
    ) -> int:
        start, text = texts[plan.receipt]
        next_one = last.position + 1 - start
        if next_one >= len(text):
            return 0  # Behind a stop string, which the front end finds later.
        right = kind == "right" or (kind == "random" and chance.random() < 0.5)
        made[right] += 1
        return text[next_one] if right else (text[next_one] + 1) % 500

    with pytest.MonkeyPatch.context() as patch:
        if kind != "own":
            patch.setattr(Composer, "draft", draft)
        yield made
