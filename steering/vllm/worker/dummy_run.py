"""Seam: dummy runs, in which no token is marked and every mixer returns zeros.

vLLM makes them to profile, to warm up and to keep idle replicas in step (`_dummy_run` of both model
runners). They belong to no request, so no token may be marked in them. The probes at the start are
such runs too. Without metadata most attention layers return zeros, but the CPU's backend
(`v1/attention/backends/cpu_attn.py`) and state-space layers (`layers/mamba/mamba_mixer*.py`) leave
their output uninitialised, and the effect of a probe would be lost in noise. A mixer is a
layer of either kind: it mixes tokens.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steersman.steering.vllm.seam import Function, wrap
from steersman.steering.vllm.worker.stages import hidden_states
from steersman.steering.worker.batch import Steps


def attach(
    runner: Any, steps: Steps, passed_on: list[Any] | None = None
) -> Callable[[int], Tensor | None]:
    """Wrap `runner._dummy_run` so that no token is marked in it. Returns `Attached.probe`, a dummy
    run that leaves the marks as they are. `passed_on`: has what such a run passes to the next stage
    of a pipeline, where the runner does not return it."""
    dummy_run = runner._dummy_run

    @functools.wraps(dummy_run)
    def dummy(*args: Any, **kwargs: Any) -> Any:
        steps.clear_marks()
        return dummy_run(*args, **kwargs)

    @torch.inference_mode()
    def probe(tokens: int) -> Tensor | None:
        # What a later stage of a pipeline starts from. Its blocks write into it.
        received = getattr(runner, "intermediate_tensors", None)
        for tensor in received.tensors.values() if received is not None else ():
            tensor.zero_()
        output = dummy_run(tokens, skip_eplb=True)[0]
        return hidden_states(passed_on.pop() if output is None and passed_on else output)

    runner._dummy_run = dummy
    return probe


def install(*, on_cpu: bool) -> None:
    """Wrap the layers that leave their output uninitialised. Idempotent. `on_cpu`: also wrap the
    CPU's attention, which other workers need not import."""
    from vllm.model_executor.layers.mamba.mamba_mixer import MambaMixer
    from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2

    wrap(MambaMixer, "forward_impl", _mixer_zeroing)
    wrap(MambaMixer2, "conv_ssm_forward", _mixer_zeroing)
    if on_cpu:
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

        wrap(CPUAttentionBackendImpl, "forward", _attention_zeroing)


def _attention_zeroing(original: Function) -> Function:
    def forward(
        self: Any, layer: Any, query: Any, key: Any, value: Any, kv_cache: Any, attn_metadata: Any,
        output: Any = None, *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        if attn_metadata is None and output is not None:
            return output.fill_(0)
        return original(
            self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
        )

    return forward


def _mixer_zeroing(original: Function) -> Function:
    from vllm.forward_context import get_forward_context

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if get_forward_context().attn_metadata is None:
            output = kwargs["output"] if "output" in kwargs else args[-1]
            output.zero_()
        return result

    return forward
