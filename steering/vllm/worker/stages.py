"""Seam: the stages of a pipeline (`distributed/parallel_state.py`), and what they send each other.

A stage of a pipeline has some of the model's blocks; vLLM leaves a placeholder where the others
are. Every stage still has the tables of all layers: bank rows, table entries and marks are then the
same on all ranks, and only the last stage, whose output vLLM takes, reports on them. Data parallel
replicas are on their own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.worker.blocks import Block


def is_last_stage() -> bool:
    """Whether this rank has the model's last blocks, its final norm and its unembedding."""
    from vllm.distributed import get_pp_group

    return bool(get_pp_group().is_last_rank)


def agreed(check: Callable[[], Any]) -> Any:
    """The result of `check()`. If it raises on one stage, this raises on all, because the others
    would wait for that one. All ranks must call it together."""
    try:
        result = check()
    except Exception as error:
        _gathered(str(error))
        raise
    for told in _gathered(None):
        if told is not None:
            raise NotInstrumentable(told)
    return result


def all_stages(blocks: list[Block]) -> list[Block]:
    """The blocks of all stages, in order: of others than this one's `blocks`, what was found of
    them, with stand-ins for their modules."""
    ours = {block.layer: block for block in blocks}
    stubs = [
        replace(
            block,
            module=nn.Identity(),
            attn=None if block.attn is None else nn.Identity(),
            mlp=None if block.mlp is None else nn.Identity(),
            mid=None if block.mid is None else nn.Identity(),
        )
        for block in blocks
    ]
    whole = [ours.get(block.layer, block) for stage in _gathered(stubs) for block in stage]
    return sorted(whole, key=lambda block: block.layer)


def hidden_states(output: Any) -> Tensor | None:
    """The hidden states [tokens, hidden] in what a forward pass returned; of a stage that is not
    the last, the sum of the tensors that go to the next. None if there are none."""
    if hasattr(output, "tensors"):
        return torch.stack(list(output.tensors.values())).sum(0)
    # With hidden states for a draft model besides, it is the first.
    found = output[0] if isinstance(output, tuple) else output
    return found if isinstance(found, Tensor) else None


def received(model: nn.Module, tokens: int, dtype: torch.dtype, device: torch.device) -> Any:
    """What this stage would get from the one before it for `tokens` tokens: random numbers of the
    size of embeddings, the same at each call. None on the first stage."""
    from vllm.distributed import get_pp_group

    if get_pp_group().is_first_rank:
        return None
    make: Any = model.make_empty_intermediate_tensors
    found = make(batch_size=tokens, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in found.items():
        found[name] = torch.randn(tensor.shape, generator=generator).to(tensor)
    return found


def _gathered(here: Any) -> list[Any]:
    """`here` of every stage, those first that run first."""
    from vllm.distributed import get_pp_group

    group = get_pp_group()
    found: list[Any] = [here] * group.world_size
    if group.world_size > 1:
        torch.distributed.all_gather_object(found, here, group.cpu_group)
    return found
