"""Seam: how many tokens of a captured prompt a step takes (`v1/core/sched/scheduler.py:
Scheduler`).

While other requests run, all captured prompts of a step together take at most as many tokens as the
first of them allows (`Capture.portion`); a captured prompt that starts takes at least one. The
place for this is `_mamba_block_aligned_split`, which vLLM calls for the number of a request's
tokens to take if `need_mamba_block_aligned_split` is set.
"""

from typing import TYPE_CHECKING, Any, Final

from steersman.steering.plan.capture import CAPTURE_KEY, Capture
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.vllm.seam import Function, wrap

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

    from steersman.steering.vllm.core.state import SteeredScheduler

CAPTURED_ATTRIBUTE: Final = "steersman_captured"
"""Attribute of SchedulerOutput: (tokens of captured prompts in the step, captured requests in the
step that are behind their prompt)."""


def install() -> None:
    """Wrap the scheduler's method. Idempotent."""
    from vllm.v1.core.sched.scheduler import Scheduler

    wrap(Scheduler, "_mamba_block_aligned_split", _in_portions)


def track(scheduler: "SteeredScheduler", request: "Request") -> None:
    """Record the portion of a new request if it is captured."""
    extra_args = getattr(request.sampling_params, "extra_args", None) or {}
    if CAPTURE_KEY in extra_args:
        try:
            capture = Capture.of(extra_args)
        except PlanInvalid:
            return  # It is not captured.
        if capture is not None:
            scheduler.steering_captured[request.request_id] = capture.portion


def before_step(scheduler: "SteeredScheduler") -> None:
    """Make vLLM call `_mamba_block_aligned_split` if a captured prompt is to be divided."""
    captured = scheduler.steering_captured
    scheduler.steering_portion_left = None
    divides = (
        scheduler.steering_divides
        and any(captured.values())
        and len(captured) < len(scheduler.requests)
    )
    scheduler.need_mamba_block_aligned_split = scheduler.steering_aligned or divides


def after_step(scheduler: "SteeredScheduler", output: "SchedulerOutput") -> None:
    """Record on `output` how many tokens of captured prompts, and how many captured sequences
    behind their prompt, are in the step."""
    tokens = behind = 0
    for request_id in scheduler.steering_captured.keys() & output.num_scheduled_tokens.keys():
        request, number = scheduler.requests[request_id], output.num_scheduled_tokens[request_id]
        of_prompt = request.num_prompt_tokens - (request.num_computed_tokens - number)
        if of_prompt > 0:
            tokens += min(number, of_prompt)
        else:
            behind += 1
    if tokens or behind:
        setattr(output, CAPTURED_ATTRIBUTE, (tokens, behind))


def _in_portions(original: Function) -> Function:
    def _mamba_block_aligned_split(
        self: "SteeredScheduler", request: "Request", num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> int:
        if self.steering_aligned:
            aligned: int = original(self, request, num_new_tokens, *args, **kwargs)
            return aligned
        portion = self.steering_captured.get(request.request_id, 0)
        if not portion or num_new_tokens <= 1:
            return num_new_tokens
        if self.steering_portion_left is None:
            self.steering_portion_left = portion
        # If one that waits got none, vLLM would start no request behind it.
        least = 0 if request.status.name == "RUNNING" else 1
        taken: int = max(least, min(num_new_tokens, self.steering_portion_left))
        self.steering_portion_left = max(0, self.steering_portion_left - taken)
        return taken

    return _mamba_block_aligned_split
