"""Seam: vLLM's state-space layers in dummy runs (`model_executor/layers/mamba/mamba_mixer*.py`).

Without metadata they leave their output uninitialised, and a probe that passes through it cannot be
told from noise. The examination of the blocks and the self-check need zeros, as attention gives.
"""

from typing import Any

from steersman.steering.vllm.patching import Function, wrap


def install() -> None:
    """Wrap what `MambaMixer` and `MambaMixer2` do inside their custom operation. Idempotent."""
    from vllm.model_executor.layers.mamba.mamba_mixer import MambaMixer
    from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2

    wrap(MambaMixer, "forward_impl", _zeroing)
    wrap(MambaMixer2, "conv_ssm_forward", _zeroing)


def _zeroing(original: Function) -> Function:
    from vllm.forward_context import get_forward_context

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if get_forward_context().attn_metadata is None:
            output = kwargs["output"] if "output" in kwargs else args[-1]
            output.zero_()
        return result

    return forward
