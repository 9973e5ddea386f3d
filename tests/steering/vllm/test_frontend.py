"""Dynamic requests that an engine could never run are refused where it takes them in."""

from types import SimpleNamespace
from typing import Any

import pytest

from steersman.steering.plan import Plan, PlanInvalid
from steersman.steering.plan.wire.readouts import Readout, Tokens
from steersman.steering.vllm.frontend import _check_dynamic, _check_keys, _check_readouts
from steersman.vectors.tensors import HookPoint
from tests.support.steering.make import digest

BLOCK = 16


def config(**changes: Any) -> Any:
    """An engine of eight seats and ten blocks, of which one stands for none."""
    scheduler = {
        "async_scheduling": False,
        "max_num_seqs": 8,
        "max_num_active_seqs": None,
        "watermark": 0.0,
    }
    cache = SimpleNamespace(kv_cache_size_tokens=10 * BLOCK, block_size=BLOCK)
    stages = SimpleNamespace(pipeline_parallel_size=changes.pop("stages", 1))
    return SimpleNamespace(
        parallel_config=stages,
        speculative_config=changes.pop("speculative_config", None),
        scheduler_config=SimpleNamespace(**scheduler | changes),
        cache_config=cache,
    )


def request(
    prompt: int = 3, tokens: int = 13, media: bool = False, embeddings: bool = False
) -> Any:
    return SimpleNamespace(
        prompt_token_ids=None if embeddings else [0] * prompt,
        prompt_embeds=[[0.0]] * prompt if embeddings else None,
        sampling_params=SimpleNamespace(max_tokens=tokens),
        mm_features=["picture"] if media else [],
    )


def test_one_that_fits() -> None:
    _check_dynamic(request(), 8, config())
    _check_dynamic(request(tokens=45), 3, config())


@pytest.mark.parametrize(
    ("asked", "streams", "changes", "param", "words"),
    [
        (request(), 3, {"stages": 2}, "steering.dynamic", "pipeline parallel"),
        (
            request(),
            3,
            {"speculative_config": object(), "async_scheduling": True},
            "steering.dynamic",
            "--no-async-scheduling",
        ),
        (request(media=True), 3, {}, "steering.dynamic", "images"),
        (request(embeddings=True), 3, {}, "steering.dynamic", "prompts of embeddings"),
        (request(), 6, {"max_num_seqs": 5}, "steering.vectors", "--max-num-seqs"),
        (request(), 6, {"max_num_active_seqs": 5}, "steering.vectors", "runs 5 at most"),
        # A token over a block's end is a block more, for each stream.
        (request(tokens=14), 5, {}, "max_tokens", "room for 16 tokens each"),
        (request(tokens=46), 3, {}, "max_tokens", "room for 48 tokens each"),
        (request(tokens=45), 3, {"watermark": 0.1}, "max_tokens", "room for 32 tokens each"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_why(
    asked: Any, streams: int, changes: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(PlanInvalid, match=words) as refused:
        _check_dynamic(asked, streams, config(**changes))
    assert refused.value.param == param


def reading(*tokens: Tokens) -> Plan:
    point = HookPoint("resid_post", 1)
    readouts = (Readout(digest(1), (point,), "cosine", which) for which in tokens)
    return Plan((), readouts=tuple(readouts))


@pytest.mark.parametrize(
    ("plan", "changes", "param"),
    [
        (reading("answer"), {"stages": 2}, "steering.read"),
        (reading("prompt", "answer"), {"speculative_config": object()}, "steering.read[1].tokens"),
        (reading("prompt", "last"), {"speculative_config": object()}, None),
        (reading("answer"), {}, None),
    ],
)
def test_reads_that_would_be_wrong_are_refused(
    plan: Plan, changes: dict[str, Any], param: str | None
) -> None:
    if param is None:
        _check_readouts(plan, config(**changes))
        return
    with pytest.raises(PlanInvalid) as refused:
        _check_readouts(plan, config(**changes))
    assert (refused.value.param, refused.value.code) == (param, "not_supported")


@pytest.mark.parametrize("key", ["steering", "steer", "steering_vectors", "sv_scale", "Steering"])
def test_extra_arguments_that_mean_steering_are_refused(key: str) -> None:
    # Also those of vLLM's own `LLM`, where there is no route to ask.
    with pytest.raises(Exception, match="steersman serve") as refused:
        _check_keys({key: {"vectors": {"a": 1}}})
    assert getattr(refused.value, "parameter", None) == f"extra_args.{key}"


def test_other_extra_arguments_pass() -> None:
    _check_keys({"steering": None, "steersman": "{}", "kv_transfer_params": {}, "string": 1})
