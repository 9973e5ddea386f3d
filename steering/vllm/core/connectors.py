"""Seam: KV connectors, which copy cache blocks out of vLLM's cache and back.

Those of `unsupported.CONNECTORS` name a block by vLLM's own hash, in which the steering of its
tokens is, so no request gets a block that was steered otherwise. But the blocks of a request that
could not be steered, or is not finite, leave vLLM's cache alone (`failures`): a copy would stay,
and might be of a block that has been filled with zeros since. So a connector gets no block with a
steered token. Blocks before the first, such as a system prompt's, it gets as from any request.
"""

from typing import TYPE_CHECKING, Any, Final

from steersman.steering.plan.dynamic import Companion
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.plan import PLAN_KEY
from steersman.steering.vllm.core.request import plan_of

if TYPE_CHECKING:
    from vllm.v1.request import Request

    from steersman.steering.vllm.core.state import SteeredScheduler

_MOST: Final = "max_offload_tokens"
"""Key of `Request.kv_transfer_params`: the connector copies no block that ends after this many
tokens. Clients may set it too."""


def keep_steered_blocks(scheduler: "SteeredScheduler", request: "Request") -> None:
    """Have the connector copy only blocks before the first steered token. Call before the
    connector gets the request. Does nothing without a connector."""
    if scheduler.connector is None:
        return
    most = _unsteered_tokens(request)
    if most is not None:
        params: dict[str, Any] = dict(request.kv_transfer_params or {})
        asked = params.get(_MOST)
        params[_MOST] = min(most, asked) if type(asked) is int and asked >= 0 else most
        request.kv_transfer_params = params


def _unsteered_tokens(request: "Request") -> int | None:
    """How many tokens of the request are before its first steered one; None if it is not
    steered."""
    extra_args = (request.sampling_params and request.sampling_params.extra_args) or {}
    if Companion.of(extra_args) is not None:
        return 0  # Its answer has the same prompt.
    if PLAN_KEY not in extra_args:
        return None
    try:
        plan = plan_of(request)
        assert plan is not None
        spans = plan.layout(request.num_prompt_tokens).spans
        return min((start for start, _ in spans), default=None)
    except PlanInvalid:
        return 0
