"""Seam: the memory of vLLM's cache blocks (`Attention.kv_cache`, `KVCacheConfig`).

vLLM does not clean a block that goes from one request to the next: what lies behind the end of a
sequence is masked. A mask multiplies by zero, and zero times NaN is NaN, so the blocks of a request
that was not finite are filled with zeros before another request gets them.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def clean(runner: Any, blocks: list[int]) -> None:
    """Queue the filling of cache blocks with zeros, in every layer, before the coming forward pass.
    `blocks`: block ids of the scheduler."""
    if runner.device.type != "cpu":
        _with_kernel(runner, blocks)
        return
    count = runner.kv_cache_config.num_blocks
    caches = runner.compilation_config.static_forward_context.values()
    for cache in _tensors(getattr(layer, "kv_cache", None) for layer in caches):
        # Where a layer's kernel has smaller blocks, some make one of the scheduler's.
        parts = len(cache) // count
        if parts * count != len(cache):
            raise RuntimeError(
                f"a cache of shape {tuple(cache.shape)} cannot be divided into {count} blocks"
            )
        rows = [block * parts + part for block in blocks for part in range(parts)]
        # PyTorch cannot fill some types (float8) on every device: for these, fill the bytes.
        filled = cache.view(torch.uint8) if cache.element_size() == 1 else cache
        filled.index_fill_(0, torch.tensor(rows, device=cache.device), 0)


def _with_kernel(runner: Any, blocks: list[int]) -> None:
    """Fill all layers in one launch of vLLM's own kernel, which exists for caches of mixed
    precision."""
    zeroer = _zeroer(runner)
    if zeroer is None:
        runner._init_kv_zero_meta()
        zeroer = _zeroer(runner)
    zeroer.zero_block_ids(blocks)


def _zeroer(runner: Any) -> Any:
    """The zeroing kernel of model runner V1 or V2; None if it has not been made."""
    return getattr(runner, "_kv_block_zeroer", None) or getattr(runner, "kv_block_zeroer", None)


def _tensors(caches: Iterable[Any]) -> Iterator[Tensor]:
    """The non-empty tensors among `caches`; a state-space layer has several."""
    for cache in caches:
        if isinstance(cache, Tensor):
            if cache.numel():
                yield cache
        elif isinstance(cache, list | tuple):
            yield from _tensors(cache)
