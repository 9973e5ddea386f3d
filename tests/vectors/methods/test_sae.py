"""Features chosen by what they do on texts, against loops over all of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steersman.vectors.formats import feature_blocks
from steersman.vectors.methods import ActivationsInvalid
from steersman.vectors.methods.sae import aurocs, by_activation, by_contrast, strongest
from tests.reference.methods import features
from tests.vectors.formats.test_sae import FEATURES, HIDDEN, PLACE, saelens, weights


def texts(seed: int, count: int = 9, shift: float = 0.0) -> list[torch.Tensor]:
    """The stream of some texts, without their first tokens. `shift`: towards feature 3."""
    generator = torch.Generator().manual_seed(seed)
    along = weights()["W_enc"][:, 3]
    return [
        torch.randn(4 + n % 3, HIDDEN, generator=generator) + shift * along for n in range(count)
    ]


def of(path: Path, tokens: list[torch.Tensor], size: int = 7) -> torch.Tensor:
    point, blocks = feature_blocks(path, size=size)
    assert point == PLACE
    return strongest(tokens, blocks)


@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
@pytest.mark.parametrize("before", [True, False])
def test_each_texts_largest_activations(tmp_path: Path, architecture: str, before: bool) -> None:
    path = saelens(tmp_path / "sae", architecture=architecture, apply_b_dec_to_input=before)
    sae = {name: tensor.numpy() for name, tensor in weights().items()}
    if architecture == "standard":
        del sae["threshold"]
    tokens = texts(1)
    found = of(path, tokens)
    assert found.shape == (9, FEATURES)
    for text, one in zip(tokens, found, strict=True):
        first = torch.full((1, HIDDEN), 1e6)
        expected = features.strongest(torch.cat([first, text]).numpy(), sae, before)
        assert one.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert torch.allclose(found, of(path, tokens, size=4096), atol=1e-5)


def test_gemma_scope_is_read_in_blocks_too(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    np.savez_compressed(path, **{name: t.numpy() for name, t in weights().items()})  # type: ignore[arg-type]
    _, blocks = feature_blocks(path, layer=4, size=6)
    folder = saelens(tmp_path / "sae", apply_b_dec_to_input=False)
    assert torch.allclose(strongest(texts(1), blocks), of(folder, texts(1)), atol=1e-5)


def test_areas_are_those_of_all_pairs(tmp_path: Path) -> None:
    path = saelens(tmp_path / "sae")
    plus, minus = of(path, texts(1, 8, 0.5)), of(path, texts(2, 6))
    found = aurocs(plus, minus)
    for n in range(FEATURES):
        assert float(found[n]) == features.area(plus[:, n].tolist(), minus[:, n].tolist())


def test_by_contrast_the_feature_that_tells_the_sides_apart(tmp_path: Path) -> None:
    path = saelens(tmp_path / "sae")
    plus, minus = of(path, texts(1, 20, 3.0)), of(path, texts(2, 20))
    found = by_contrast(plus, minus, 3)
    assert len(found["features"]) == 3
    areas = [one["auroc"] for one in found["features"]]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] == max(
        features.area(plus[:, n].tolist(), minus[:, n].tolist()) for n in range(FEATURES)
        if float(plus[:, n].mean()) > float(minus[:, n].mean())
    )  # fmt: skip
    assert 3 in [one["feature"] for one in found["features"]]
    assert found["held_out_auroc"] > 0.9
    assert found["null"]["auroc"]["mean"] < 0.7
    assert "reason" not in found
    assert found == by_contrast(plus, minus, 3)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_many_features_by_chance_is_not_taken_for_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    plus, minus = (torch.rand(10, 3000, generator=generator) for _ in range(2))
    found = by_contrast(plus, minus, 2, seed)
    assert found["features"][0]["auroc"] > 0.85, "on the texts that it was chosen by"
    assert "shuffled labels" in found["reason"]


def test_by_activation_the_largest_in_the_mean(tmp_path: Path) -> None:
    some = of(saelens(tmp_path / "sae"), texts(1))
    found = by_activation(some, 4)
    means = some.double().mean(0)
    assert [one["feature"] for one in found["features"]] == means.topk(4).indices.tolist()
    assert found["by"] == "activation"


def test_what_cannot_be_chosen_is_an_error(tmp_path: Path) -> None:
    path = saelens(tmp_path / "sae")
    some = of(path, texts(1))
    with pytest.raises(ActivationsInvalid, match="fewer than the 21"):
        by_activation(some, 21)
    with pytest.raises(ActivationsInvalid) as caught:
        by_contrast(some, some[:1], 2)
    assert caught.value.param == "negative"
    with pytest.raises(ActivationsInvalid, match="no token but its first"):
        of(path, [torch.empty(0, HIDDEN)])
    few = by_contrast(some[:3], of(path, texts(2))[:3], 2)
    assert "held_out_auroc" not in few
    assert few["reason"]
