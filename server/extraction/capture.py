"""Sends one text through the engine and captures its residual stream."""

import secrets
from dataclasses import dataclass
from typing import Any

from steersman.server.extraction.examples import Example
from steersman.steering.plan.capture import CAPTURE_KEY, Capture, CaptureResult
from steersman.steering.plan.inbox import CAPTURES
from steersman.steering.plan.step_clock import CAPTURE_PREFIX
from steersman.vectors.tensors import HookPoint


class CaptureFailed(RuntimeError):
    """The engine did not capture all tokens."""


@dataclass
class CaptureClient:
    """Captures through one engine (vLLM's `AsyncLLM`)."""

    engine: Any
    terms: tuple[HookPoint, ...]
    reproducible: bool = False
    in_flight: int = 0
    portion: int = 0
    """Most tokens of a text in a step beside others; 0: all."""

    def others_in_flight(self) -> int:
        """Number of requests of this API server's clients that the engine has not finished."""
        waiting: int = self.engine.output_processor.get_num_unfinished_requests()
        return waiting - self.in_flight

    async def capture(self, example: Example, *, each: bool = False) -> CaptureResult:
        """What the example's tokens have at each of `terms`: float32, see `CaptureResult`. Raises
        `CaptureFailed`."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        receipt = f"{CAPTURE_PREFIX}{secrets.token_hex(8)}"
        # Cut up, a text does not come out to the last bit what it is whole.
        portion = 0 if self.reproducible else self.portion
        wanted = Capture(receipt, self.terms, example.start, example.stop, each, portion)
        end = len(example.tokens)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max(1, example.stop - end + 1),
            extra_args={CAPTURE_KEY: wanted.to_json()},
            # The last token is always computed, the others are not if the cache has them; and
            # behind what the cache has, the last is not to the last bit what it is without.
            skip_reading_prefix_cache=self.reproducible or example.start < end - 1,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,
        )
        CAPTURES.open(wanted)
        self.in_flight += 1
        final = None
        try:
            prompt = {"prompt_token_ids": list(example.tokens)}
            async for output in self.engine.generate(prompt, params, receipt):
                final = output
        finally:
            self.in_flight -= 1
            found = CAPTURES.close(receipt)
        expected = example.stop - example.start
        if final is not None and example.stop > end:
            expected = len(final.outputs[0].token_ids)
        if found is None or found.tokens != expected:
            raise CaptureFailed(
                f"{found.tokens if found else 0} of {expected} tokens were captured; the server's "
                "log has the reason"
            )
        return found
