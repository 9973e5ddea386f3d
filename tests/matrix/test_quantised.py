"""Quantised weights, as far as vLLM's CPU backend runs them: eight-bit weights and activations."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steersman.steering.plan import Plan
from tests.support.matrix import judge
from tests.support.matrix.bench import Bench
from tests.support.matrix.questions import one
from tests.support.matrix.results import way

LARGEST = 127
DOSES = {0: 0.4, 2: -0.5}
"""Coefficient at each steered layer."""


def make_quantised(model: Path, folder: Path, added: dict[int, Tensor]) -> None:
    """The model with its linear layers in eight bits (compressed-tensors, one scale a row), and
    `added` [hidden] as the bias of each layer's last linear map: a steering vector that stock vLLM
    knows how to add."""
    weights = load_file(model / "model.safetensors")
    for name in [n for n in weights if n.endswith("_proj.weight")]:
        rounded, scale = quantise(weights[name])
        weights[name] = rounded.to(torch.int8)
        weights[f"{name}_scale"] = scale
        bias = torch.zeros(len(rounded))
        if name.endswith("down_proj.weight"):
            bias += added.get(int(name.split(".")[2]), 0)
        if ".mlp." in name:
            weights[f"{name.removesuffix('weight')}bias"] = bias
    folder.mkdir()
    for path in model.iterdir():
        if path.name != "model.safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    config = json.loads((model / "config.json").read_text())
    config["mlp_bias"] = True
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**eight, "strategy": "channel", "dynamic": False},
                "input_activations": {**eight, "strategy": "token", "dynamic": True},
            }
        },
    }
    (folder / "config.json").write_text(json.dumps(config))


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers of at most 127, and each row's scale."""
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (rows / scale).round().clamp(-LARGEST - 1, LARGEST), scale


def runs(bench: Bench, model: Path, **changes: Any) -> dict[str, Any]:
    return Bench(model, bench.library, bench.asks).here(**changes)["standard"]  # type: ignore[no-any-return]


@pytest.mark.matrix
def test_eight_bits(bench: Bench, tmp_path: Path) -> None:
    """Steering every token at `mlp_out` is a bias of the layer's last map: steered answers of the
    quantised model are those that stock vLLM gives with that bias in the weights."""
    with way("quantised weights, int8 (compressed-tensors W8A8)") as row:
        digest = next(v.digest for a in bench.asks if a.plan for v in a.plan.vectors)
        plan = Plan(tuple(one(digest, c, (n,), "all", "mlp_out") for n, c in DOSES.items()))
        asks = [replace(ask, plan=plan) for ask in bench.asks]
        added = {}
        for term in bench.terms(asks[0]):
            added[term.layer] = term.coefficient * term.vector
        make_quantised(bench.model, tmp_path / "plain", {})
        make_quantised(bench.model, tmp_path / "biased", added)

        found = runs(bench, tmp_path / "plain")
        judge.standard(bench.asks, found, found)
        steered = Bench(tmp_path / "plain", bench.library, asks).here()["standard"]
        biased = runs(bench, tmp_path / "biased")["unsteered"]
        judge.steering_shows(asks, steered["mixed"], steered["unsteered"])
        worst = judge.same(steered["mixed"], biased)
        row.steered(f"{judge.words(worst)} of stock vLLM with the vector in a bias")
