"""Adapters: the steered layers are wrapped, and stay the same layers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.matrix import judge, tiny
from tests.support.matrix.bench import Bench
from tests.support.matrix.results import way

RANK, ALPHA = 8, 16
SLOTS = 2
"""One more than adapters. vLLM marks a token without one by -1, and its torch operations for CPUs
(`lora/ops/torch_ops`) take that as the last slot: with no spare one, everybody gets the adapter."""
PARTS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def make_adapter(model: Path, folder: Path, merged: Path) -> None:
    """A random adapter on every linear layer, and a copy of the model with it added in."""
    generator = torch.Generator().manual_seed(5)
    weights = load_file(model / "model.safetensors")
    adapter = {}
    for layer in range(tiny.LAYERS):
        for part, names in PARTS.items():
            for name in names:
                key = f"model.layers.{layer}.{part}.{name}"
                rows, columns = weights[f"{key}.weight"].shape
                a = torch.randn(RANK, columns, generator=generator) * 0.1
                b = torch.randn(rows, RANK, generator=generator) * 0.1
                adapter[f"base_model.model.{key}.lora_A.weight"] = a
                adapter[f"base_model.model.{key}.lora_B.weight"] = b
                weights[f"{key}.weight"] += ALPHA / RANK * (b @ a)
    folder.mkdir()
    save_file(adapter, folder / "adapter_model.safetensors")
    targets = [name for names in PARTS.values() for name in names]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA,
              "target_modules": targets, "bias": "none"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    merged.mkdir()
    for path in model.iterdir():
        if path.name != "model.safetensors":
            (merged / path.name).write_bytes(path.read_bytes())
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.matrix
def test_lora(bench: Bench, expected: dict[str, Any], tmp_path: Path) -> None:
    with way("LoRA") as row:
        adapter, merged = tmp_path / "adapter", tmp_path / "merged"
        make_adapter(bench.model, adapter, merged)
        in_weights = bench.here(model=merged)["standard"]["mixed"]
        found = bench.here(
            {"adapted": {"adapter": str(adapter)}},
            enable_lora=True, max_lora_rank=RANK, max_loras=SLOTS,
        )["adapted"]  # fmt: skip
        assert in_weights[0]["tokens"] != expected["mixed"][0]["tokens"]
        turns = zip(expected["mixed"], in_weights, strict=True)
        half = [adapted if n % 2 else plain for n, (plain, adapted) in enumerate(turns)]
        worst = max(
            judge.same(found["half"], half),
            judge.same(found["all"], in_weights),
            judge.same(found["none"], expected["mixed"]),
        )
        judge.neighbours(bench.asks, found["half"], found["half_unsteered"])
        judge.counts(bench.asks, found["half"])
        judge.idle(found["before"], found["after"], 1)
        row.steered(
            f"{judge.words(worst)} of the adapter in the weights; half a batch with it"
            " (on CPUs vLLM wants one more of `--max-loras` for that)"
        )
