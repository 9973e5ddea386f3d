"""Stage one: a tiny random model of a family, on disk, and how long its residual stream is."""

import json
from pathlib import Path

import torch

from tests.support.models import tokenizers
from tests.support.models.family import Family
from tests.support.models.reference import Reference, hugging_face_class


def make(family: Family, place: Path) -> None:
    """Save one, the same each time."""
    import transformers

    config = getattr(transformers, family.config)(**family.settings)
    torch.manual_seed(0)
    model = hugging_face_class(family).from_config(config, dtype=torch.float32)
    randomise(model)
    model.save_pretrained(place / "model")
    if family.tokenizer:
        getattr(tokenizers, family.tokenizer)(place / "model")
    if not family.refused and not family.vllm_must_fail:
        (place / "norms.json").write_text(json.dumps(Reference(family, place).stream_norms()))


def randomise(model: torch.nn.Module) -> None:
    """Weights that let every part matter: a fresh model is so near to zero that little does, its
    norms are all ones and its biases all zeros."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "A_log" in name or "conv1d" in name:
                continue
            if "act_fn.alpha" in name:
                # vLLM has xIELU's in bfloat16 whatever the rest is in.
                parameter.copy_(parameter.bfloat16())
            if parameter.dim() >= 2:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            elif "norm" in name or "ln_" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
