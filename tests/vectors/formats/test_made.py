"""Files that the tools' own libraries wrote: imported where their makers add them, or refused.

`made/make.py` wrote them. For libraries that steer, the stream that they made of the tiny model is
recorded, and ours must be the same.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.formats import load
from tests.support.vectors.tiny import LAYERS, residuals, tiny_model
from tests.vectors.formats.make_fixtures import FIXTURES, PROMPT, STRENGTH

HERE = Path(__file__).parent / "made"
MANIFEST = json.loads((HERE / "manifest.json").read_text())
READ = sorted(name for name, about in MANIFEST.items() if about["refused"] is None)
REFUSED = sorted(name for name, about in MANIFEST.items() if about["refused"] is not None)
STEERED = sorted(name for name, about in MANIFEST.items() if about.get("steered"))


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(HERE / "expected.safetensors")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(weights=FIXTURES / "tiny_model.safetensors")


def test_there_are_thirty_and_more_of_several_makers() -> None:
    assert len(MANIFEST) >= 30
    assert len({about["by"] for about in MANIFEST.values()}) >= 6
    assert {p.name for p in HERE.iterdir() if p.suffix not in (".py", ".json")} == {
        *MANIFEST, "expected.safetensors",
        *(["__pycache__"] if (HERE / "__pycache__").exists() else []),
    }  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_each_vector_is_where_its_maker_adds_it(name: Any, expected: Any) -> None:
    about = MANIFEST[name]
    found = load(HERE / name, num_layers=LAYERS, **about["options"])
    assert sorted(f"{site}.{layer}" for site, layer in found.tensors) == about["places"]
    for (site, layer), tensor in found.tensors.items():
        assert torch.allclose(tensor, expected[f"{name}|{site}.{layer}"], atol=1e-6, rtol=0)
    assert found.coefficient == about["coefficient"]
    assert found.operation.name == about.get("operation", "add")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(name: Any) -> None:
    with pytest.raises(VectorInvalid) as caught:
        load(HERE / name, num_layers=LAYERS, layer=2)
    assert caught.value.param == MANIFEST[name]["refused"]


@pytest.mark.parametrize("name", STEERED)
def test_the_stream_is_moved_as_the_library_moved_it(name: Any, model: Any, expected: Any) -> None:
    found = load(HERE / name, num_layers=LAYERS)

    def stream(shift: int) -> torch.Tensor:
        handles = [
            model.model.layers[layer + shift].register_forward_hook(
                lambda _m, _a, output, v=tensor: output + STRENGTH * v
            )
            for (_, layer), tensor in found.tensors.items()
            if 0 <= layer + shift < LAYERS
        ]
        try:
            return residuals(model, PROMPT)
        finally:
            for handle in handles:
                handle.remove()

    theirs = expected[f"residuals|{name}"]
    assert torch.allclose(stream(0), theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(stream(-1), theirs, atol=0.05)
