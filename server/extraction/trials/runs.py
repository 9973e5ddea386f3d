"""Runs prompts of a job for one new token, which a vector may steer."""

import base64
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from steersman.server.chat.resolve import Resolved
from steersman.server.chat.steered_request import SteeredRequest, SteeringContext, resolved
from steersman.server.chat.trace import Answers
from steersman.server.errors import NotSteered
from steersman.server.extraction.capture import CaptureClient
from steersman.server.library.in_time import in_time
from steersman.steering.plan import PLAN_KEY
from steersman.steering.plan.step_clock import CAPTURE_PREFIX
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.methods.ablation import LogProbs

TOP: Final = 20
"""Tokens of which probabilities are asked for, where none are named."""


@dataclass
class Runs:
    """Prompts of one job, on its engine."""

    client: CaptureClient
    steering: SteeringContext

    @asynccontextmanager
    async def steered(self, vector: SteeringVector) -> AsyncIterator["SteeredRuns"]:
        """Runs with `vector`, which is not in the library, at its own coefficient, layers and
        positions. Raises `PlanInvalid`, and `SteersmanError`."""
        data = base64.b64encode(write_vector(vector)).decode()
        made = await in_time(
            self.steering.load_timeout, resolved, self.steering, {"vectors": [{"data": data}]}
        )
        # Held until the last run has ended, so that the file stays where workers find it.
        held = SteeredRequest(self.steering, made, Answers())
        try:
            yield SteeredRuns(self, made)
        finally:
            held.release()

    async def first_token(
        self, tokens: Sequence[int], wanted: Sequence[int] = (), extra: dict[str, Any] | None = None
    ) -> LogProbs:
        """Log-probabilities of the token after `tokens`: of those in `wanted`, or of the `TOP` most
        likely ones. `extra`: of the request's sampling parameters."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        allowed = self.client.engine.vllm_config.model_config.max_logprobs
        top = TOP if allowed < 0 else min(TOP, allowed)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=None if wanted else top,
            logprob_token_ids=list(wanted) or None,
            extra_args=extra,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,
        )
        final = await last_output(self.client, tokens, params)
        found = final.outputs[0].logprobs if final is not None else None
        if not found:
            raise NotSteered("the engine ended a run without probabilities; its log has the reason")
        chosen = set(wanted)
        return {
            token: one.logprob for token, one in found[0].items() if not chosen or token in chosen
        }


class SteeredRuns:
    """Runs with one vector."""

    def __init__(self, runs: Runs, made: Resolved) -> None:
        self._runs = runs
        self._made = made

    async def first_token(self, tokens: Sequence[int], wanted: Sequence[int]) -> LogProbs:
        """See `Runs.first_token` and `steered_run`."""
        with steered_run(self._runs.steering, self._made) as extra:
            return await self._runs.first_token(tokens, wanted, extra)


@contextmanager
def steered_run(steering: SteeringContext, made: Resolved) -> Iterator[dict[str, str]]:
    """One run that `made` steers, in the block: gives the extra arguments of its sampling
    parameters. Raises what the engine ended the run with, and `NotSteered` if no worker says that
    it steered. Clients' requests are counted, these runs are not."""
    own = replace(made, plan=replace(made.plan, receipt=secrets.token_hex(8)))
    request = SteeredRequest(steering, own, Answers(), 1)
    try:
        yield {PLAN_KEY: own.plan.to_json()}
        if not request.was_steered():
            raise NotSteered("no worker says that it steered a run of this job")
    except Exception:
        if (refusal := request.refusal()) is not None:
            raise refusal from None
        raise
    finally:
        request.release()


async def last_output(client: CaptureClient, tokens: Sequence[int], params: Any) -> Any:
    """The last output of a run of `tokens`; None where there is none."""
    # The prefix says that the step has tokens of a job, as those of captures.
    name = f"{CAPTURE_PREFIX}{secrets.token_hex(8)}"
    final = None
    client.in_flight += 1
    try:
        async for output in client.engine.generate(
            {"prompt_token_ids": list(tokens)}, params, name
        ):
            final = output
    finally:
        client.in_flight -= 1
    return final
