"""Seam: vLLM's request in the engine core (`v1/request.py: Request`), and the plan it carries."""

from typing import TYPE_CHECKING, Any

from steersman.steering.plan.cache_key import CacheKeys
from steersman.steering.plan.dynamic import STREAM_KEY
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.plan import PLAN_KEY, Plan

if TYPE_CHECKING:
    from vllm.v1.request import Request

_PLAN = "_steersman_plan"
_KEYS = "_steersman_keys"
_NOTED = "_steersman_noted"
_READS = "_steersman_reads"
"""Attributes that we add to a request."""


def plan_of(request: "Request") -> Plan | None:
    """The plan of a request, parsed once; None if the request is not steered. Raises
    `PlanInvalid`."""
    params = request.sampling_params
    if params is None or not params.extra_args or PLAN_KEY not in params.extra_args:
        return None
    found: Plan | PlanInvalid | None = getattr(request, _PLAN, None)
    if found is None:
        try:
            found = Plan.of(params.extra_args)
        except PlanInvalid as error:
            found = error
        setattr(request, _PLAN, found)
    if isinstance(found, PlanInvalid):
        raise found.with_traceback(None)
    return found


def cache_keys_of(request: "Request", plan: Plan) -> CacheKeys:
    """The cache keys of a request's blocks, built once for each prompt length. Raises
    `PlanInvalid`."""
    prompt_tokens: int = request.num_prompt_tokens
    kept: tuple[int, CacheKeys] | None = getattr(request, _KEYS, None)
    if kept is None or kept[0] != prompt_tokens:
        kept = (prompt_tokens, CacheKeys(plan, prompt_tokens))
        setattr(request, _KEYS, kept)
    return kept[1]


def noted(request: "Request") -> bool:
    """False on the first call for a request, True on every later one."""
    before = hasattr(request, _NOTED)
    setattr(request, _NOTED, True)
    return before


def keep_reads(request: "Request", chunks: list[list[Any]]) -> None:
    """Keep what a step read of a request for its next output: a step of its prompt has none."""
    setattr(request, _READS, [*getattr(request, _READS, ()), *chunks])


def take_reads(request: "Request") -> list[Any]:
    """What was kept for this output; nothing on a second call."""
    found: list[Any] = getattr(request, _READS, [])
    if found:
        setattr(request, _READS, [])
    return found


def companion_of(answer: "Request", plan: Plan, stream: int) -> "Request":
    """A new companion of `answer`: the same prompt, adapter and client, greedy sampling, no text.
    `stream`: 0 for the unsteered companion, n for the n-th vector of `plan` alone."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    extra: dict[str, Any] = {STREAM_KEY: [answer.request_id, stream]}
    alone = plan.alone(stream)
    if alone is not None:
        extra[PLAN_KEY] = alone.to_json()
    params = SamplingParams(
        temperature=0, max_tokens=answer.max_tokens, detokenize=False, extra_args=extra
    )
    return Request(
        f"{answer.request_id}-stream{stream}",
        answer.prompt_token_ids,
        params,
        None,
        client_index=answer.client_index,
        arrival_time=answer.arrival_time,
        lora_request=answer.lora_request,
        cache_salt=answer.cache_salt,
        priority=answer.priority,
        block_hasher=answer._block_hasher,
    )
