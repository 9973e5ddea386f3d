"""Seam: prefix-cache keys (`v1/core/kv_cache_utils.py: generate_block_hash_extra_keys`).

A block's key gains exactly the steering of its own tokens; the chain of parent hashes covers the
tokens before. Blocks before the first steered token keep vLLM's key and are shared with everybody.
"""

import functools
import sys
from typing import Any

from steering.plan.errors import PlanInvalid
from steering.plan.plan import PLAN_KEY, Plan

_NAME = "generate_block_hash_extra_keys"
_IMPORTERS = ("vllm.v1.core.block_pool", "vllm.v1.simple_kv_offload.manager")
"""Modules that import the function by name and so hold a reference of their own."""


def install() -> None:
    """Replace the function wherever vLLM refers to it. Idempotent."""
    import vllm.v1.core.block_pool
    from vllm.v1.core import kv_cache_utils

    original = getattr(kv_cache_utils, _NAME)
    if hasattr(original, "__steersman__"):
        return

    @functools.wraps(original)
    def extra_keys(request: Any, start: int, stop: int, start_mm: int) -> Any:
        keys, next_mm = original(request, start, stop, start_mm)
        params = request.sampling_params
        if params is None or not params.extra_args or PLAN_KEY not in params.extra_args:
            return keys, next_mm
        own = steering_key(request, start, stop)
        if own is None:
            return keys, next_mm
        return (*(keys or ()), (PLAN_KEY, own)), next_mm

    extra_keys.__steersman__ = True  # type: ignore[attr-defined]
    setattr(kv_cache_utils, _NAME, extra_keys)
    for name in _IMPORTERS:
        module = sys.modules.get(name)
        if module is not None and hasattr(module, _NAME):
            setattr(module, _NAME, extra_keys)


def steering_key(request: Any, start: int, stop: int) -> str | None:
    """Key of the steering in tokens [start, stop) of a vLLM request, None if there is none."""
    plan = getattr(request, "_steersman_plan", None)
    try:
        if plan is None:
            plan = Plan.of(request.sampling_params.extra_args)
            request._steersman_plan = plan
        if plan is None:
            return None
        return plan.cache_key(start, stop, request.num_prompt_tokens)
    except PlanInvalid:
        # The worker will end this request; until then its blocks must be nobody else's.
        return f"invalid:{request.request_id}"
