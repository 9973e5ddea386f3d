"""Seam: vLLM's CPU attention in dummy runs (`v1/attention/backends/cpu_attn.py`).

Without metadata every other backend writes zeros; the CPU's leaves its output uninitialised, and a
probe that passes through it cannot be told from noise. The self-check needs the zeros.
"""

import functools
from typing import Any


def install() -> None:
    """Wrap `CPUAttentionBackendImpl.forward`. Idempotent; call on CPU workers only."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    forward = CPUAttentionBackendImpl.forward
    if hasattr(forward, "__steersman__"):
        return

    @functools.wraps(forward)
    def zeroed(
        self: Any, layer: Any, query: Any, key: Any, value: Any, kv_cache: Any, attn_metadata: Any,
        output: Any = None, *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        if attn_metadata is None and output is not None:
            return output.fill_(0)
        return forward(
            self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
        )

    zeroed.__steersman__ = True  # type: ignore[attr-defined]
    CPUAttentionBackendImpl.forward = zeroed
