"""Seam: vLLM's CPU attention in dummy runs (`v1/attention/backends/cpu_attn.py`).

Without metadata every other backend writes zeros; the CPU's leaves its output uninitialised, and a
probe that passes through it cannot be told from noise. The self-check needs the zeros.
"""

from typing import Any

from steersman.steering.vllm.patching import Function, wrap


def install() -> None:
    """Wrap `CPUAttentionBackendImpl.forward`. Idempotent; call on CPU workers only."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    wrap(CPUAttentionBackendImpl, "forward", _zeroing)


def _zeroing(original: Function) -> Function:
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
