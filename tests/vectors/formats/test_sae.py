"""Features of sparse autoencoders: what a use of them changes is what the SAE itself would."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import read_vector, write_vector
from steersman.vectors.formats import load, load_features
from steersman.vectors.tensors import HookPoint
from tests.reference.interventions import Intervention

HIDDEN, FEATURES = 6, 20
CHOSEN = [3, 17]
PLACE = HookPoint("resid_post", 4)
CONFIG: dict[str, Any] = {
    "architecture": "jumprelu",
    "d_in": HIDDEN,
    "d_sae": FEATURES,
    "hook_name": "blocks.4.hook_resid_post",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
}


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "W_enc": normal(HIDDEN, FEATURES),
        "W_dec": normal(FEATURES, HIDDEN),
        "b_enc": normal(FEATURES),
        "b_dec": normal(HIDDEN),
        "threshold": normal(FEATURES).abs(),
    }


def saelens(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
    (folder / "cfg.json").write_text(json.dumps(config))
    kept = weights()
    if config.get("architecture") != "jumprelu":
        del kept["threshold"]
    save_file(kept, folder / "sae_weights.safetensors")
    return folder


def activations(h: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Of all features, as the SAE computes them: [tokens, features]."""
    w = weights()
    taken = h - w["b_dec"] if config["apply_b_dec_to_input"] else h
    z = taken @ w["W_enc"] + w["b_enc"]
    gate = w["threshold"] if config["architecture"] == "jumprelu" else torch.zeros(FEATURES)
    return torch.relu(z) * (z > gate)


@pytest.mark.parametrize("apply", [True, False])
@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_a_feature_is_what_it_is_in_the_sae(tmp_path: Path, architecture: str, apply: bool) -> None:
    changes = {"architecture": architecture, "apply_b_dec_to_input": apply}
    vector = load_features(saelens(tmp_path / "sae", **changes), CHOSEN, name="two")
    assert vector.operation.name == "feature"
    assert list(vector.tensors) == [PLACE]
    again = read_vector(write_vector(vector))
    assert again.digest == vector.digest
    h = torch.randn(50, HIDDEN, generator=torch.Generator().manual_seed(9))
    seen = activations(h, CONFIG | changes)
    assert (seen[:, CHOSEN] > 0).any(0).all()
    encoders, decoders = again.tensors[PLACE].chunk(2)
    for at, feature in enumerate(CHOSEN):
        bias, threshold = again.numbers[PLACE][:, at].tolist()
        settings = {"value": 2.5, "bias": bias, "threshold": threshold}
        tensors = {"encoder": encoders[at], "decoder": decoders[at]}
        use = Intervention("feature", *PLACE, 1.0, tensors, settings)
        wanted = torch.outer(2.5 - seen[:, feature], weights()["W_dec"][feature])
        assert torch.allclose(use.change(h), wanted, atol=1e-4)


def test_gemma_scope_does_not_say_where_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    arrays: dict[str, Any] = {name: t.numpy() for name, t in weights().items()}
    np.savez_compressed(path, **arrays)
    with pytest.raises(VectorInvalid) as refused:
        load_features(path, CHOSEN)
    assert refused.value.param == "layer"
    found = load_features(path, CHOSEN, layer=4)
    # Its encoder takes the stream as it is.
    folder = saelens(tmp_path / "sae", apply_b_dec_to_input=False)
    assert found.digest == load_features(folder, CHOSEN).digest
    assert list(load_features(path, CHOSEN, layer=4, site="mlp_out").tensors) == [
        HookPoint("mlp_out", 4)
    ]
    with pytest.raises(VectorInvalid, match="there is no feature 20"):
        load_features(path, [FEATURES], layer=4)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"architecture": "gated"}, "architecture"),
        ({"architecture": "standard", "activation_fn": "topk"}, "activation_fn"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations"),
        ({"apply_b_dec_to_input": ...}, "apply_b_dec_to_input"),
        ({"hook_name": "blocks.4.attn.hook_z"}, "hook_name"),
        ({"hook_name": ...}, "hook_name"),
    ],
)
def test_what_would_be_another_activation_is_refused(
    tmp_path: Path, changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(VectorInvalid) as refused:
        load_features(saelens(tmp_path / "sae", **changes), CHOSEN)
    assert refused.value.param == param


@pytest.mark.parametrize("features", [[], [FEATURES], [1, 1], [-1], list(range(300))])
def test_features_that_are_not_there(tmp_path: Path, features: list[int]) -> None:
    with pytest.raises(VectorInvalid) as refused:
        load_features(saelens(tmp_path / "sae"), features)
    assert refused.value.param == "features"


def test_another_place_than_its_own(tmp_path: Path) -> None:
    folder = saelens(tmp_path / "sae")
    assert load_features(folder, CHOSEN, layer=4, site="resid_post").layers == (4,)
    for options, param in (({"layer": 5}, "layer"), ({"site": "mlp_out"}, "site")):
        with pytest.raises(VectorInvalid) as refused:
            load_features(folder, CHOSEN, **options)
        assert refused.value.param == param


def test_a_whole_sae_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(VectorInvalid, match="--features"):
        load(saelens(tmp_path / "sae"))
