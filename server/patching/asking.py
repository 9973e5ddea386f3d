"""Runs of a prompt, patched or not, through the engine."""

import asyncio
import secrets
from dataclasses import dataclass, replace
from typing import Any

from steersman.server.chat.resolve import Resolved
from steersman.server.chat.steered_request import SteeredRequest, SteeringContext
from steersman.server.chat.trace import Answers
from steersman.server.errors import NotSteered
from steersman.server.extraction.capture import CaptureClient
from steersman.server.metrics import Outcome
from steersman.steering.plan import PLAN_KEY, Plan
from steersman.steering.plan.step_clock import CAPTURE_PREFIX


@dataclass
class PatchClient(CaptureClient):
    """Captures both prompts, and asks for answers' probabilities behind patched ones."""

    steering: SteeringContext | None = None

    async def difference(
        self,
        prompt: tuple[int, ...],
        answers: tuple[tuple[int, ...], tuple[int, ...]],
        plan: Plan | None = None,
    ) -> float:
        """log p(answers[0]) - log p(answers[1]) behind `prompt`, steered by `plan`. Raises
        `NotSteered`, `BankFull` and `LibrarySlow`."""
        first, second = await asyncio.gather(
            *(self._log_probability(prompt, answer, plan) for answer in answers)
        )
        return first - second

    async def _log_probability(
        self, prompt: tuple[int, ...], answer: tuple[int, ...], plan: Plan | None
    ) -> float:
        """log p(answer) behind `prompt`: the sum over its tokens."""
        if plan is None:
            return await self._asked(prompt, answer, None)
        assert self.steering is not None
        made = Resolved(replace(plan, receipt=secrets.token_hex(8)), [{"id": "patch"}])
        steered = SteeredRequest(self.steering, made, Answers(), 1)
        outcome = Outcome.FAILED
        try:
            found = await self._asked(prompt, answer, made.plan)
            if not steered.was_steered():
                raise NotSteered("no worker confirms that the prompt was patched")
            outcome = Outcome.COMPLETED
        except Exception:
            if (refusal := steered.refusal()) is not None:
                raise refusal from None
            raise
        finally:
            steered.close(outcome)
        return found

    async def _asked(
        self, prompt: tuple[int, ...], answer: tuple[int, ...], plan: Plan | None
    ) -> float:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            extra_args=None if plan is None else {PLAN_KEY: plan.to_json()},
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,
        )
        self.in_flight += 1
        final: Any = None
        try:
            given = {"prompt_token_ids": [*prompt, *answer]}
            name = f"{CAPTURE_PREFIX}{secrets.token_hex(8)}"
            async for output in self.engine.generate(given, params, name):
                final = output
        finally:
            self.in_flight -= 1
        behind = final.prompt_logprobs[len(prompt) :] if final and final.prompt_logprobs else ()
        if len(behind) != len(answer):
            raise NotSteered("the engine ended the run early; the server's log has the reason")
        return float(sum(found[token].logprob for found, token in zip(behind, answer, strict=True)))
