"""Files that say, in any tool's words, that their vectors are for something other than adding."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import read_new, read_vector
from steersman.vectors.file.operation import check_operations
from steersman.vectors.formats import load
from steersman.vectors.library.entry import read_stored
from steersman.vectors.library.library import Library
from tests.support.vectors.files import gguf, names, note, refused, safetensors, unit

OTHERS = [
    ("operation", "project"),
    ("Operation", "PROJECT"),
    ("op", "ablate"),
    ("mode", "project"),
    ("intervention", "clamp"),
    ("intervention_type", "rotate"),
    ("interventionType", "replace"),
    ("steering_type", "orthogonal"),
    ("steering-mode", "spherical"),
    ("steering_operation", "multiply"),
    ("operator", "ablation_operator"),
    ("vector.operation", "erase"),
    ("operation", ""),
    ("operation", "something new"),
    ("method", "project"),
    ("method", "directional_ablation"),
    ("type", "clamp"),
    ("steering_method", "Projection"),
    ("algorithm", "loreft"),
    ("config", '{"steering": {"type": "project"}}'),
    ("interventions", '[{"operation": "clamp"}]'),
]
HARMLESS = [
    ("method", "pca"),
    ("method", "mean_difference"),
    ("method", "random_projection"),
    ("type", "controlvector"),
    ("format", "pt"),
    ("operation", "add"),
    ("Operation", "Additive"),
    ("intervention_type", "addition"),
    ("operator", "addition_operator"),
    ("steering_type", "CAA"),
    ("mode", "ActAdd"),
    ("mode", "vector"),
    ("pooling_mode", "last"),
    ("description", "projects are fun: remove it"),
    ("name", "clamp"),
    ("top_k", "op"),
    ("config", '{"steering": {"type": "add"}, "method": "pca"}'),
    ("broken", "{operation: project"),
]


def key_of(said: str) -> str:
    """The key that an error names: below JSON, the path in it."""
    keys = {"config": "config.steering.type", "interventions": "interventions.operation"}
    return keys.get(said, said)


@pytest.mark.parametrize("tensor", ["blocks.12.hook_resid_post", "v"])
@pytest.mark.parametrize(("key", "value"), OTHERS)
def test_in_safetensors_metadata(key: Any, value: Any, tensor: str, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "v.safetensors", {key: value}, {tensor: unit()})
    error = refused(path, layer=12)
    assert (error.param, error.code) == (key_of(key), "operation_not_served")
    assert "not imported yet" in error.message


@pytest.mark.parametrize(("key", "value"), OTHERS)
def test_at_the_upload_and_in_what_is_stored(key: Any, value: Any, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "v.safetensors", {key: value}, {"resid_post.12": unit()})
    library = Library(tmp_path / "library")
    for read in (lambda: read_new(path.read_bytes()), lambda: read_vector(path),
                 lambda: read_stored(path), lambda: library.add(path, "v")):  # fmt: skip
        with pytest.raises(VectorInvalid) as caught:
            read()
        assert (caught.value.param, caught.value.code) == (key_of(key), "operation_not_served")
    assert library.list() == []


@pytest.mark.parametrize(("key", "value"), OTHERS)
def test_in_gguf(key: Any, value: Any, tmp_path: Path) -> None:
    for prefix in ("", "controlvector.", "general."):
        path = gguf(tmp_path / "v.gguf", {prefix + key: value}, {"direction.12": unit()})
        error = refused(path)
        assert (error.param, error.code) == (prefix + key_of(key), "operation_not_served")


@pytest.mark.parametrize(("key", "value"), OTHERS)
def test_in_json_beside_the_vectors(key: Any, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "v.svec"
    directions = {"12": unit().tolist()}
    path.write_text(json.dumps({"model_type": "llama", "directions": directions, key: value}))
    assert refused(path).param == key_of(key)
    torch.save(unit(), tmp_path / "direction.pt")
    (tmp_path / "direction_metadata.json").write_text(
        json.dumps({"pos": -1, "layer": 12, key: value})
    )
    assert refused(tmp_path / "direction.pt").param == key_of(key)
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file({"resid_post.12": unit()}, folder / "v.safetensors")
    (folder / "config.json").write_text(json.dumps({key: value}))
    assert refused(folder).param == f"config.json.{key_of(key)}"


def test_on_the_card_of_a_folder(tmp_path: Path) -> None:
    save_file({"resid_post.12": unit()}, tmp_path / "v.safetensors")
    (tmp_path / "README.md").write_text("---\nlicense: mit\noperation: project\n---\n")
    assert refused(tmp_path).param == "README.md.operation"
    (tmp_path / "README.md").write_text("---\nlicense: mit\nmethod: pca\n---\n")
    # A model's configuration is about the model.
    (tmp_path / "config.json").write_text('{"model_type": "llama", "mode": "project"}')
    assert names(load(tmp_path)) == ["resid_post.12"]


@pytest.mark.parametrize(("key", "value"), HARMLESS)
def test_what_says_add_or_how_it_was_made_passes(key: Any, value: Any, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "v.safetensors", {key: value}, {"resid_post.12": unit()})
    assert names(load(path)) == names(read_new(path.read_bytes())) == ["resid_post.12"]
    path = gguf(tmp_path / "v.gguf", {f"controlvector.{key}": value}, {"direction.12": unit()})
    assert names(load(path)) == ["resid_post.12"]


@pytest.mark.parametrize(
    "said",
    [{"operation": 1}, {"op": True}, {"operation": ["add", "project"]}, {"a": {"op": "clip"}},
     {"operations": [{"operation": "clamp"}]}, {1: {"mode": "project"}}],
)  # fmt: skip
def test_values_that_are_not_texts(said: Any) -> None:
    with pytest.raises(VectorInvalid):
        check_operations(said)
    check_operations({"operation": None, "op": ["add", "Add"], "x": {"mode": "+"}, 3: 4})


def test_what_is_nested_without_end_costs_nothing() -> None:
    deep = "[" * 100_000 + '{"operation": "project"}'
    check_operations({"a": deep})


@pytest.mark.parametrize("suffix", ["npz", "pt", "safetensors"])
@pytest.mark.parametrize(
    "name", ["project", "ablation_direction", "clampVector", "mlp_out", "blocks.3.hook_z",
             "project_12"],
)  # fmt: skip
def test_the_name_of_a_lone_tensor_may_say_it(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v.{suffix}"
    if suffix == "npz":
        arrays: dict[str, Any] = {name: unit().numpy()}
        np.savez(path, **arrays)
    elif suffix == "pt":
        torch.save({name: unit()}, path)
    else:
        save_file({name: unit()}, path)
    assert refused(path, layer=12).code in ("unknown_layout", "unknown_tensor")


def test_a_maker_is_still_noted(tmp_path: Path) -> None:
    path = gguf(tmp_path / "v.gguf", {"controlvector.method": "pca"}, {"direction.12": unit()})
    assert note(load(path))["method"] == "pca"
