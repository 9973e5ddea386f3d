"""Which of a request's blocks a KV connector may copy. With vLLM's own connector:
tests/matrix/test_parallel.py."""

from types import SimpleNamespace
from typing import Any

import pytest

from steersman.steering.plan import PLAN_KEY, Plan
from steersman.steering.plan.dynamic import STREAM_KEY
from steersman.steering.plan.wire.readouts import Readout
from steersman.steering.vllm.core.connectors import keep_steered_blocks
from steersman.vectors.tensors import HookPoint
from tests.support.steering.make import digest, plan_of, planned

PROMPT = 40


def most(
    extra_args: dict[str, Any] | None, params: dict[str, Any] | None = None, connector: Any = "one"
) -> Any:
    """The request's `kv_transfer_params` when the connector gets to know it."""
    request: Any = SimpleNamespace(
        sampling_params=SimpleNamespace(extra_args=extra_args),
        num_prompt_tokens=PROMPT,
        kv_transfer_params=params,
    )
    keep_steered_blocks(SimpleNamespace(connector=connector), request)  # type: ignore[arg-type]
    return request.kv_transfer_params


@pytest.mark.parametrize(
    ("plan", "tokens"),
    [
        (plan_of(planned(positions="all")), 0),
        (plan_of(planned(positions="generation")), PROMPT - 1),
        (plan_of(planned(positions="after_prompt")), PROMPT),
        (plan_of(planned(1, positions=(30, 35)), planned(2, positions=(12, 20))), 12),
        (plan_of(planned(positions=(-3, 60))), PROMPT - 3),
    ],
)
def test_blocks_before_the_first_steered_token_are_copied(plan: Plan, tokens: int) -> None:
    steered = {PLAN_KEY: plan.to_json()}
    assert most(steered) == {"max_offload_tokens": tokens}
    assert most(steered, connector=None) is None
    # A client may want fewer, and no more.
    assert most(steered, {"max_offload_tokens": 3, "a": 1}) == {
        "max_offload_tokens": min(3, tokens), "a": 1,
    }  # fmt: skip
    for other in (10_000, "all", True, -1):
        assert most(steered, {"max_offload_tokens": other}) == {"max_offload_tokens": tokens}


def test_of_plans_that_cannot_be_read_and_of_companions_nothing_is() -> None:
    outside = plan_of(planned(positions=(50, 60))).to_json()
    for extra_args in ({PLAN_KEY: "no plan"}, {PLAN_KEY: outside}, {STREAM_KEY: ["a", 0]}):
        assert most(extra_args) == {"max_offload_tokens": 0}


def test_of_requests_that_nobody_steers_all_are() -> None:
    point = HookPoint("resid_post", 1)
    reads = Plan((), readouts=(Readout(digest(1), (point,), "cosine", "prompt"),))
    assert most({PLAN_KEY: reads.to_json()}) is None
    assert most(None) is most({}) is most({"top_k": 1}) is None
    assert most(None, {"a": 1}) == {"a": 1}
