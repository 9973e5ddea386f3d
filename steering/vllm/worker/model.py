"""Seam: one pass of the bare model (`forward_context.py: set_forward_context`), as a function.

There is no attention metadata, as in vLLM's own profile run: attention layers return zeros, and no
token sees another. Compiled graphs are not used: the model's Python runs, and nothing is compiled
early. Both model runners have the methods that are used here
(`v1/worker/lora_model_runner_mixin.py`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.vllm.worker.stages import hidden_states, received
from steersman.steering.worker.blocks import LayerTypes

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def layer_types() -> LayerTypes:
    """vLLM's classes by which `find_blocks` recognises attention, state-space and linear layers,
    and blocks of other stages."""
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.models.utils import PPMissingLayer

    return LayerTypes(AttentionLayerBase, LinearBase, PPMissingLayer)


def run_without_graphs() -> None:
    """Make the running step's forward pass run the model's Python instead of a compiled or captured
    graph, on all ranks alike. vLLM does the same for steps that encode."""
    from vllm.config import CUDAGraphMode
    from vllm.forward_context import get_forward_context

    context = get_forward_context()
    context.skip_compiled = True
    context.cudagraph_runtime_mode = CUDAGraphMode.NONE


def bare_forward(runner: Any, vllm_config: "VllmConfig") -> Callable[[int], Tensor]:
    """A function that takes a number of tokens and returns their final hidden states [n, hidden],
    as this stage of a pipeline leaves them.

    Raises `NotInstrumentable` for an encoder-decoder, whose prompt and answer have separate
    streams.
    """
    from vllm.forward_context import set_forward_context

    model, device = runner.get_model(), runner.device
    config = vllm_config.model_config
    if config.is_encoder_decoder:
        raise NotInstrumentable(
            f"{type(model).__name__} is an encoder-decoder; Steersman steers decoder-only models"
        )

    def forward(tokens: int) -> Tensor:
        ids = torch.arange(tokens, device=device) % config.get_vocab_size()
        shape = (3, tokens) if config.uses_mrope else (tokens,)
        inputs = {"input_ids": ids, "inputs_embeds": None}
        if config.is_multimodal_model:
            inputs["inputs_embeds"] = model.embed_input_ids(ids)
        with (
            # No adapter for anyone; without LoRA it does nothing.
            runner.maybe_select_dummy_loras(runner.lora_config, np.array([tokens], dtype=np.int32)),
            set_forward_context(None, vllm_config, num_tokens=tokens, skip_compiled=True),
        ):
            output = model(
                **inputs,
                positions=torch.zeros(shape, dtype=torch.long, device=device),
                intermediate_tensors=received(model, tokens, runner.dtype, device),
            )
        hidden = hidden_states(output)
        if hidden is None:
            raise NotInstrumentable("the model's forward pass returned no hidden states")
        return hidden

    return forward
