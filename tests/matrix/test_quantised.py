"""Quantised weights, as far as vLLM's CPU backend runs them: eight-bit weights and activations."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.matrix import judge
from tests.matrix.bench import Bench
from tests.matrix.results import way
from tests.reference.reference import ReferenceModel

LARGEST = 127


def make_quantised(model: Path, folder: Path) -> None:
    """The model with its linear layers in eight bits (compressed-tensors, one scale a row)."""
    weights = load_file(model / "model.safetensors")
    for name in [n for n in weights if n.endswith("_proj.weight")]:
        rounded, scale = quantise(weights[name])
        weights[name] = rounded.to(torch.int8)
        weights[f"{name}_scale"] = scale
    folder.mkdir()
    for path in model.iterdir():
        if path.name != "model.safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    config = json.loads((model / "config.json").read_text())
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


class Rounding(nn.Module):
    """A linear layer with both sides rounded to eight bits, in float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.scale = quantise(linear.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        rounded, scale = quantise(x)
        return (rounded @ self.weight.T) * scale * self.scale.T


@pytest.mark.matrix
def test_eight_bits(bench: Bench, tmp_path: Path) -> None:
    with way("quantised weights, int8 (compressed-tensors W8A8)") as row:
        make_quantised(bench.model, tmp_path / "w8a8")
        quantised = Bench(tmp_path / "w8a8", bench.library, bench.asks)
        found = quantised.here()["standard"]
        judge.standard(bench.asks, found, found)
        reference = ReferenceModel(bench.model)
        for block in reference.model.model.layers:
            for part in (block.self_attn, block.mlp):
                for name, linear in list(part.named_children()):
                    if isinstance(linear, nn.Linear):
                        setattr(part, name, Rounding(linear))
        differences = judge.differences(bench, reference, found["mixed"])
        middle = float(torch.tensor(differences).median())
        print(sorted(differences)[-20:], middle)
        assert middle <= judge.CLOSE
        row.steered(f"median {middle:.0e} from Hugging Face rounded the same way")
