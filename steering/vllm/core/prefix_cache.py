"""Seam: prefix-cache keys (`v1/core/kv_cache_utils.py: generate_block_hash_extra_keys`).

A block's key contains exactly the steering of its own tokens; the hash of the parent block covers
the tokens before. Blocks before the first steered token keep vLLM's key and are shared by all
requests.
"""

import sys
from typing import TYPE_CHECKING, Any

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.plan import PLAN_KEY
from steersman.steering.vllm.core.request import cache_keys_of, plan_of
from steersman.steering.vllm.seam import Function, wrap

if TYPE_CHECKING:
    from vllm.v1.request import Request

_NAME = "generate_block_hash_extra_keys"
_LOOKAHEAD = "generate_lookahead_block_hash_extra_keys"
"""From vLLM 0.33 on, with a drafter that takes a block's hidden states together with the tokens
behind each: the hash of a block has tokens behind it too. It calls the first over all of them."""
_OFFLOAD = "vllm.v1.simple_kv_offload.manager"
"""Imports the function by name, if it is imported at all; so does `block_pool`."""


def install() -> None:
    """Replace the function in every module of vLLM that refers to it. Idempotent."""
    from vllm.v1.core import block_pool, kv_cache_utils

    for module in (kv_cache_utils, block_pool, sys.modules.get(_OFFLOAD)):
        if hasattr(module, _NAME):
            wrap(module, _NAME, _with_steering)
        if hasattr(module, _LOOKAHEAD):
            wrap(module, _LOOKAHEAD, _with_own_steering)


def _with_steering(original: Function) -> Function:
    def extra_keys(request: "Request", start: int, stop: int, start_mm: int) -> Any:
        keys, next_mm = original(request, start, stop, start_mm)
        return _joined(keys, request, start, stop), next_mm

    return extra_keys


def _with_own_steering(original: Function) -> Function:
    """Of the tokens behind a block only which they are matters to what is in it, not their
    steering."""

    def extra_keys(request: "Request", start: int, stop: int, reach: int, start_mm: int) -> Any:
        keys, next_mm = original(request, start, stop, reach, start_mm)
        others = tuple(key for key in keys or () if key[:1] != (PLAN_KEY,))
        return _joined(others or None, request, start, stop), next_mm

    return extra_keys


def _joined(keys: tuple[Any, ...] | None, request: "Request", start: int, stop: int) -> Any:
    own = steering_key(request, start, stop)
    return keys if own is None else (*(keys or ()), (PLAN_KEY, own))


def steering_key(request: "Request", start: int, stop: int) -> str | None:
    """Key of the steering of tokens [start, stop) of a vLLM request; None if none of them is
    steered."""
    try:
        plan = plan_of(request)
        if plan is None:
            return None
        if plan.dynamic is None:
            return cache_keys_of(request, plan).of(start, stop)
        # Its coefficients are found while it runs: for itself alone, should it be preempted.
        first = min(vector.span(request.num_prompt_tokens)[0] for vector in plan.vectors)
        return f"dynamic:{request.request_id}" if stop > first else None
    except PlanInvalid:
        # The worker will end this request; until then no other request may share its blocks.
        return f"invalid:{request.request_id}"
