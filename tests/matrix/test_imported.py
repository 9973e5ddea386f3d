"""Files of other tools, in the engine: the stream moves behind the block that the import says, and
not before it. (That their own libraries move it there too is tests/vectors/formats/test_probe.py.)
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.steering.plan import Plan, PlannedVector
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.formats import load
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.support.engine.engine import Ask
from tests.support.matrix import start, tiny
from tests.support.vectors.tiny import HIDDEN, LAYERS
from tests.vectors.formats.make_fixtures import FIXTURES

FILES: dict[str, dict[str, Any]] = {
    "repeng.gguf": {},
    "dialz.gguf": {},
    "cvector-generator.gguf": {},
    "activation-steering.svec": {},
    "caa": {"model": "Llama-2-7b-chat-hf"},
    "easyedit": {},
    "refusal": {},
}
PROMPT = (5, 100, 17, 44, 250, 3)
CLOSE = 1e-5


@pytest.mark.engine
def test_each_moves_the_stream_where_it_says(tmp_path: Path) -> None:
    """Each tensor of each file alone, at coefficient 1."""
    library = Library(tmp_path / "library")
    asks, tensors = [], []
    for name, options in FILES.items():
        vector = load(FIXTURES / name, **options)
        library.add(write_vector(vector), name.partition(".")[0])
        for (site, layer), tensor in vector.tensors.items():
            planned = PlannedVector(vector.digest, 1.0, (HookPoint(site, layer),), "all")
            asks.append(Ask(PROMPT, Plan((planned,)), 1))
            tensors.append((name, layer, tensor))
    model = tiny.make_model(tmp_path / "model", layers=LAYERS, hidden=HIDDEN, heads=1)
    found = start.here(model, library.root, asks, {"moved": {"layers": LAYERS}})["moved"]
    assert len(found) == len(tensors) > len(FILES)
    for (name, layer, tensor), streams in zip(tensors, found, strict=True):
        moved = torch.tensor(streams)
        assert not moved[:layer].any(), (name, layer)
        torch.testing.assert_close(
            moved[layer], tensor, atol=CLOSE * float(tensor.norm()), rtol=0, msg=f"{name} {layer}"
        )
    start.stop()


def test_every_fixture_is_tried() -> None:
    kept = {"expected.safetensors", "tiny_model.safetensors"}
    assert {path.name for path in FIXTURES.iterdir()} - kept == set(FILES)
    assert all(isinstance(load(FIXTURES / n, **o), SteeringVector) for n, o in FILES.items())
