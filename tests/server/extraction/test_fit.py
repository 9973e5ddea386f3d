"""Fitting layer by layer: the same as at once, and stopped in between."""

import json
from typing import Any

import pytest
import torch

from steersman.server.extraction.fit import Place, fit
from steersman.server.extraction.job import Cancelled
from steersman.server.extraction.request import ExtractRequest, read_request
from steersman.vectors.file.format import BaseModel
from steersman.vectors.methods import METHODS, ActivationsInvalid
from steersman.vectors.tensors import HookPoint
from tests.support.vectors.activations import HIDDEN, LAYERS, two_sides

FITTED = [name for name, method in METHODS.items() if method.fit and method.inputs != "styles"]
UNCALIBRATED = Place("resid_post", (0, 1, 2), None, BaseModel("m", HIDDEN, LAYERS, "f"))


def request(method: str, **more: Any) -> ExtractRequest:
    body = {"method": method, "name": "x", "pairs": [["a", "b"]], **more}
    return read_request(json.dumps(body))


def sides(count: int = 12) -> dict[str, torch.Tensor]:
    return dict(zip(("positive", "negative"), two_sides(0, count), strict=True))


@pytest.mark.parametrize("method", FITTED)
def test_by_layer_is_as_at_once(method: str) -> None:
    activations = sides()
    (vector,) = fit(request(method), activations, UNCALIBRATED, lambda: None)
    made = METHODS[method].fit
    assert made is not None
    for layer, direction in enumerate(made(activations["positive"], activations["negative"])):
        assert torch.equal(vector.tensors[HookPoint("resid_post", layer)], direction)


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("after", [0, 2, 10])
def test_stopped_at_a_layer_or_a_split(method: str, after: int) -> None:
    """10 is past the layers, among the splits that quality is measured on."""
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        if asked > after:
            raise Cancelled

    with pytest.raises(Cancelled):
        fit(request(method), sides(), UNCALIBRATED, stop)
    assert asked == after + 1


def test_all_layers_that_are_the_same_are_one_error() -> None:
    activations = sides()
    activations["negative"][:, 1:] = activations["positive"][:, 1:]
    with pytest.raises(ActivationsInvalid, match="at 2 of 3 layers") as caught:
        fit(request("mean_difference"), activations, UNCALIBRATED, lambda: None)
    assert caught.value.layers == (1, 2)


def test_without_calibration_only_what_needs_it_is_missing() -> None:
    (vector,) = fit(request("mean_difference"), sides(), UNCALIBRATED, lambda: None)
    quality = vector.method_settings["quality"]
    assert set(quality) == {
        "rows", "seed", "separation", "split_half_cosine", "null", "recommended", "reason",
    }  # fmt: skip
    assert quality["recommended"] is None
    assert vector.norms["resid_post.1"] == pytest.approx(
        float(vector.tensors[HookPoint("resid_post", 1)].norm())
    )
    assert (vector.coefficient, vector.layers, vector.safe_range) == (1.0, (0, 1, 2), None)
