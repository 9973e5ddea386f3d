"""Runs of a prompt, patched or not, through the engine."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from steersman.server.chat.resolve import Resolved
from steersman.server.chat.steered_request import SteeringContext
from steersman.server.errors import NotSteered
from steersman.server.extraction.capture import CaptureClient
from steersman.server.extraction.trials.runs import last_output, steered_run
from steersman.steering.plan import Plan


class Asking(NamedTuple):
    """Asks for the probabilities of two answers."""

    client: CaptureClient
    steering: SteeringContext
    answers: tuple[tuple[int, ...], tuple[int, ...]]

    async def difference(self, prompt: Sequence[int], plan: Plan | None = None) -> float:
        """log p(answers[0]) - log p(answers[1]) behind `prompt`, steered by `plan`. Raises
        `NotSteered`, `BankFull` and `LibrarySlow`."""
        first, second = await asyncio.gather(
            *(self._log_probability(prompt, answer, plan) for answer in self.answers)
        )
        return first - second

    async def _log_probability(
        self, prompt: Sequence[int], answer: Sequence[int], plan: Plan | None
    ) -> float:
        """log p(answer) behind `prompt`: the sum over its tokens."""
        if plan is None:
            return await self._asked(prompt, answer, None)
        with steered_run(self.steering, Resolved(plan, [{"id": "patch"}])) as extra:
            return await self._asked(prompt, answer, extra)

    async def _asked(
        self, prompt: Sequence[int], answer: Sequence[int], extra: dict[str, Any] | None
    ) -> float:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            extra_args=extra,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,
        )
        final = await last_output(self.client, [*prompt, *answer], params)
        behind = final.prompt_logprobs[len(prompt) :] if final and final.prompt_logprobs else ()
        if len(behind) != len(answer):
            raise NotSteered("the engine ended the run early; the server's log has the reason")
        return float(sum(found[token].logprob for found, token in zip(behind, answer, strict=True)))
