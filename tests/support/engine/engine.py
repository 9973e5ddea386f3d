"""A vLLM engine and short ways to ask it and to judge what it says."""

import ctypes
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

from steersman.steering.plan import PLAN_KEY, RECEIPTS, Plan, WorkerNote

LogProbs = dict[int, float]


@dataclass(frozen=True)
class Ask:
    """One request at temperature 0."""

    prompt: tuple[int, ...]
    plan: Plan | None = None
    tokens: int = 4
    prompt_logprobs: bool = False
    """vLLM reads no prefix cache for a request that wants these."""


@dataclass(frozen=True)
class Answer:
    """`logprobs[i]` has the likeliest tokens at new token i, `prompt_logprobs[i]` that of prompt
    token i + 1 given what is before it."""

    tokens: tuple[int, ...]
    logprobs: tuple[LogProbs, ...]
    prompt_logprobs: tuple[LogProbs, ...]
    cached: int
    """Prompt tokens that came from the prefix cache."""
    finish_reason: str | None


@dataclass(frozen=True)
class Engine:
    """One engine inside this process."""

    llm: LLM
    preempted: list[None] = field(default_factory=list)
    """An item for each preemption. vLLM's own count is the newest engine's in the process."""

    def __post_init__(self) -> None:
        core = getattr(self.llm.llm_engine.engine_core, "engine_core", None)
        if core is None:
            return  # The engine is in a process of its own, where it is the only one.
        preempt = core.scheduler._preempt_request

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.preempted.append(None)
            return preempt(*args, **kwargs)

        core.scheduler._preempt_request = counted

    def ask(self, *asks: Ask) -> list[Answer]:
        """All requests at once, in one batch as far as they fit."""
        prompts = [TokensPrompt(prompt_token_ids=list(ask.prompt)) for ask in asks]
        outputs = self.llm.generate(prompts, [parameters(ask) for ask in asks], use_tqdm=False)
        return [answer(output) for output in outputs]

    def receipts(self, *asks: Ask) -> list[list[tuple[int, ...]]]:
        """For each request, the steered tokens in each note that its receipt collected."""
        return [[note.steered_tokens for note in notes] for _, notes in self.noted(*asks)]

    def noted(self, *asks: Ask) -> list[tuple[Answer, list[WorkerNote]]]:
        """For each request, its answer and the notes that its receipt collected."""
        named = [
            replace(ask, plan=replace(ask.plan, receipt=f"r{n}")) if ask.plan else ask
            for n, ask in enumerate(asks)
        ]
        for n in range(len(asks)):
            RECEIPTS.open(f"r{n}")
        try:
            answers = self.ask(*named)
            return [(answer, RECEIPTS.read(f"r{n}")) for n, answer in enumerate(answers)]
        finally:
            for n in range(len(asks)):
                RECEIPTS.close(f"r{n}")

    def forget(self) -> None:
        """Empty the prefix cache."""
        assert self.llm.reset_prefix_cache()

    def status(self) -> dict[str, Any]:
        """What the worker says of its tables and bank."""
        found: dict[str, Any] = self.llm.collective_rpc("steering_status")[0]
        return found

    def rows_taken(self) -> tuple[int, int]:
        """Bank rows that the scheduler has set aside, and how many requests wait for some."""
        rows = self.llm.llm_engine.engine_core.engine_core.scheduler.steering_admission  # type: ignore[attr-defined]
        return rows.taken, rows.waiting

    def left(self) -> tuple[int, ...]:
        """What requests that ended have left behind: in the scheduler its requests, companions,
        bank rows set aside and used cache blocks; in the worker requests, companions, bank rows in
        use."""
        self.ask(Ask((1,), tokens=1))  # vLLM tells its workers of finished requests with a step.
        scheduler = self.llm.llm_engine.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
        used = round(scheduler.get_kv_cache_usage() * 10**6)
        worker = self.status()
        return (
            len(scheduler.requests), len(scheduler.steering_companions), *self.rows_taken(), used,
            worker["requests"], worker["companions"], worker["bank_rows_used"],
        )  # fmt: skip

    def metric(self, name: str) -> float:
        """A counter of vLLM's."""
        if name == "vllm:num_preemptions" and hasattr(
            self.llm.llm_engine.engine_core, "engine_core"
        ):
            return len(self.preempted)
        (found,) = [metric for metric in self.llm.get_metrics() if metric.name == name]
        value: float = found.value  # type: ignore[attr-defined]
        return value


def give_back_memory() -> None:
    """Of engines that nothing holds any more: 1.5 GB each, most of which the C library keeps."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def parameters(ask: Ask) -> SamplingParams:
    return SamplingParams(
        temperature=0,
        max_tokens=ask.tokens,
        # Bans the end token, which the reference for dynamic requests does not.
        min_tokens=0 if ask.plan is not None and ask.plan.dynamic else ask.tokens,
        ignore_eos=True,
        logprobs=5,
        prompt_logprobs=1 if ask.prompt_logprobs else None,
        extra_args=None if ask.plan is None else {PLAN_KEY: ask.plan.to_json()},
    )


def answer(output: Any) -> Answer:
    completion = output.outputs[0]
    return Answer(
        tuple(completion.token_ids),
        tuple(plain(position) for position in completion.logprobs or ()),
        tuple(plain(position) for position in (output.prompt_logprobs or [])[1:]),
        output.num_cached_tokens,
        completion.finish_reason,
    )


def plain(position: Any) -> LogProbs:
    return {token: found.logprob for token, found in position.items()}


def furthest(one: Sequence[LogProbs], other: Sequence[LogProbs]) -> float:
    """Largest difference between log-probabilities that both have; positions must match."""
    assert len(one) == len(other)
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        both = a.keys() & b.keys()
        assert both
        worst = max(worst, *(abs(a[token] - b[token]) for token in both))
    return worst
