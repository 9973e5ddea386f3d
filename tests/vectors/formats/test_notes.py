"""What bare numbers of layers count, and what lies beside the tensors of a dictionary."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.formats import load
from steersman.vectors.tensors import HookPoint
from tests.support.vectors.files import BLOCKS, STACK, gguf, names, note, refused, stored, unit

MORE = torch.cat([unit(99)[None], STACK])
OUTPUTS = [f"resid_post.{n}" for n in range(BLOCKS)]
SHAPES = ["rows.npy", "rows.pt", "rows.npz", "rows.safetensors", "list.pt", "dict.pt",
          "named.pt", "keys.npz", "keys.safetensors", "inside.pt", "said.pt"]  # fmt: skip


def write(folder: Path, shape: str, first: int, last: int) -> Path:
    """Vectors for the numbers [first, last], each shape its own way; unit(N - 1) for N."""
    path = folder / shape
    rows = MORE[first : last + 1]
    numbers = range(first, last + 1)
    kind = shape.partition(".")[0]
    if kind == "rows":
        return stored(path, rows)
    match shape:
        case "list.pt":
            torch.save([row.clone() for row in rows], path)
        case "dict.pt":
            torch.save(dict(zip(numbers, rows.clone(), strict=True)), path)
        case "named.pt":
            torch.save({f"layer_{n}": MORE[n].clone() for n in numbers}, path)
        case "inside.pt":
            torch.save({"directions": {n: MORE[n].clone() for n in numbers}}, path)
        case "said.pt":
            torch.save({"vectors": rows.clone(), "layers": list(numbers)}, path)
        case "keys.npz":
            arrays: dict[str, Any] = {str(n): MORE[n].numpy() for n in numbers}
            np.savez(path, **arrays)
        case _:
            save_file({str(n): MORE[n].clone() for n in numbers}, path)
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_one_more_than_blocks_is_hidden_states_however_it_is_stored(
    shape: Any, tmp_path: Path
) -> None:
    path = write(tmp_path, shape, 0, BLOCKS)
    found = load(path, num_layers=BLOCKS)
    assert names(found) == OUTPUTS
    assert all(torch.equal(t, unit(n)) for (_, n), t in found.tensors.items())
    (warning,) = note(found)["warnings"]
    assert "hidden_states" in warning
    assert load(path, num_layers=BLOCKS, layers_are="hidden-states").digest == found.digest
    blocks = load(path, num_layers=BLOCKS, layers_are="blocks")
    assert names(blocks) == OUTPUTS
    assert all(torch.equal(t, MORE[n]) for (_, n), t in blocks.tensors.items())
    assert len(note(blocks)["left_out_past_last_block"]) == 1
    # Where the model is not known the question is said, for a stack and for keys.
    assert "not known here" in note(load(path))["warnings"][0]


@pytest.mark.parametrize("shape", ["dict.pt", "named.pt", "keys.npz", "inside.pt", "said.pt"])
def test_1_to_n_can_only_count_hidden_states(shape: str, tmp_path: Path) -> None:
    path = write(tmp_path, shape, 1, BLOCKS)
    found = load(path, num_layers=BLOCKS)
    assert names(found) == OUTPUTS
    assert all(torch.equal(t, unit(n)) for (_, n), t in found.tensors.items())
    assert "hidden_states" in note(found)["warnings"][0]


@pytest.mark.parametrize("shape", ["dict.pt", "named.pt", "keys.npz", "keys.safetensors",
                                   "said.pt"])  # fmt: skip
def test_some_numbers_up_to_n_are_asked_about(shape: str, tmp_path: Path) -> None:
    path = write(tmp_path, shape, 20, BLOCKS)
    error = refused(path)
    assert (error.param, error.code) == ("layers_are", "ambiguous_layers")
    assert "--layers-are" in error.message
    shifted = load(path, num_layers=BLOCKS, layers_are="hidden-states")
    assert names(shifted) == OUTPUTS[19:]
    assert all(torch.equal(t, unit(n)) for (_, n), t in shifted.tensors.items())
    blocks = load(path, num_layers=BLOCKS, layers_are="blocks")
    assert names(blocks) == OUTPUTS[20:]
    assert torch.equal(blocks.tensors[HookPoint("resid_post", 20)], MORE[20])


def test_layers_are_of_a_bare_vector_and_of_rows_given_by_number(tmp_path: Path) -> None:
    one = stored(tmp_path / "one.npy", unit())
    assert names(load(one, layer=12, layers_are="hidden-states")) == ["resid_post.11"]
    assert names(load(one, layer=12, layers_are="blocks")) == ["resid_post.12"]
    some = stored(tmp_path / "some.npy", STACK[:2])
    found = load(some, layer=(12, 13), num_layers=BLOCKS, layers_are="hidden-states")
    assert names(found) == ["resid_post.11", "resid_post.12"]
    assert found.layers == (11, 12)
    assert refused(one, layer=12, layers_are="hidden-states", site="mlp_out").param == "site"


def test_layers_are_is_for_bare_numbers_only(tmp_path: Path) -> None:
    for path in (
        gguf(tmp_path / "v.gguf", {}, {"direction.12": unit()}),
        write_lens(tmp_path / "v.safetensors", "blocks.12.hook_resid_pre"),
        write_lens(tmp_path / "w.safetensors", "resid_post.12"),
    ):
        assert refused(path, layers_are="blocks").param == "layers_are"


def write_lens(path: Path, name: str) -> Path:
    save_file({name: unit()}, path)
    return path


def test_names_that_say_their_place_are_left_out_past_the_last_block(tmp_path: Path) -> None:
    save_file({f"resid_post.{n}": MORE[n].half() for n in range(BLOCKS + 1)}, tmp_path / "v.st")
    found = load(tmp_path / "v.st", num_layers=BLOCKS)
    assert torch.equal(found.tensors[HookPoint("resid_post", 3)], MORE[3].half().float())
    assert note(found)["left_out_past_last_block"] == [f"resid_post.{BLOCKS}"]


def saved(path: Path, given: Any) -> Path:
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {
            k: v.numpy() if torch.is_tensor(v) else v for k, v in given.items()
        }
        np.savez(path, **arrays)
    else:
        torch.save(given, path)
    return path


@pytest.mark.parametrize("suffix", ["pt", "npz"])
@pytest.mark.parametrize(
    ("beside", "places", "coefficient"),
    [
        ({"layer": 12}, ["resid_post.12"], 1.0),
        ({"layer_idx": 12, "method": "pca", "model_name": "org/Tiny"}, ["resid_post.12"], 1.0),
        ({"layers": [12, 13]}, ["resid_post.12", "resid_post.13"], 1.0),
        ({"layer": "12", "concept": "calm"}, ["resid_post.12"], 1.0),
        ({"layer": 12, "site": "mlp_out"}, ["mlp_out.12"], 1.0),
        ({"hook_name": "blocks.12.hook_resid_pre"}, ["resid_post.11"], 1.0),
        ({"layer": 12, "hook_point": "residual_stream_post_layer"}, ["resid_post.12"], 1.0),
        ({"layer": 12, "coefficient": 4.0, "operation": "add"}, ["resid_post.12"], 4.0),
        ({"layer": 12, "pos": -1, "accuracy": 0.9}, ["resid_post.12"], 1.0),
    ],
)
def test_a_vector_and_its_layer(
    beside: dict[str, Any], places: list[Any], coefficient: float, suffix: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / f"v.{suffix}", {"vector": unit(), **beside})
    found = load(path, num_layers=BLOCKS)
    assert names(found) == places
    assert all(torch.equal(t, unit()) for t in found.tensors.values())
    assert found.coefficient == coefficient


@pytest.mark.parametrize("suffix", ["pt", "npz"])
@pytest.mark.parametrize(
    ("beside", "param", "code"),
    [
        ({"layer": 12, "operation": "project"}, "operation", "operation_not_served"),
        ({"layer": 12, "mode": "ablate"}, "mode", "operation_not_served"),
        ({"layer": 12, "method": "clamp"}, "method", "operation_not_served"),
        ({"mode": "rotate"}, "mode", "operation_not_served"),
        ({"layer": 12, "clamp_max": 3.0}, "clamp_max", "unknown_layout"),
        ({"layer": 12, "normalize": True}, "normalize", "unknown_layout"),
        ({"layer": 12, "positions": "last"}, "positions", "unknown_layout"),
        ({"layer": -1}, "layer", "unknown_layout"),
        ({"layer": 12.5}, "layer", "unknown_layout"),
        ({"layer": 12, "block": 13}, "block", "unknown_layout"),
        ({"layer": 12, "site": "head_3"}, "site", "unknown_layout"),
        ({"layer": 12, "coefficient": float("nan")}, "coefficient", "unknown_layout"),
        ({"layer": 12, "bias": torch.ones(16)}, "vector", "unknown_tensor"),
        ({"concept": "calm"}, "layer", "no_layer"),
    ],
)
def test_what_lies_beside_a_vector_and_is_not_understood(
    beside: dict[str, Any], param: str, code: str, suffix: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / f"v.{suffix}", {"vector": unit(), **beside})
    error = refused(path)
    assert (error.param, error.code) == (param, code)


def test_rows_and_their_layers(tmp_path: Path) -> None:
    for suffix in ("pt", "npz"):
        layers = torch.tensor([3, 7])
        path = saved(tmp_path / f"v.{suffix}", {"vectors": STACK[:2].clone(), "layers": layers})
        found = load(path, num_layers=BLOCKS)
        assert names(found) == ["resid_post.3", "resid_post.7"]
        assert torch.equal(found.tensors[HookPoint("resid_post", 7)], unit(1))
        assert refused(path, layer=5).param == "layer"
        path = saved(tmp_path / f"w.{suffix}", {"vectors": STACK[:3].clone(), "layers": layers})
        assert refused(path).code == "bad_shape"


def test_what_is_said_beside_layers_by_key(tmp_path: Path) -> None:
    given = {"directions": {12: unit(), 13: unit(1)}, "layers": [12, 13], "operation": "add"}
    torch.save(given, tmp_path / "v.pt")
    assert names(load(tmp_path / "v.pt")) == ["resid_post.12", "resid_post.13"]
    torch.save(given | {"layers": [12, 14]}, tmp_path / "v.pt")
    assert refused(tmp_path / "v.pt").param == "layers"
    torch.save(given | {"operation": "project"}, tmp_path / "v.pt")
    assert refused(tmp_path / "v.pt").param == "operation"
    torch.save(given | {"site": "attn_out"}, tmp_path / "v.pt")
    assert names(load(tmp_path / "v.pt")) == ["attn_out.12", "attn_out.13"]
    torch.save({"resid_post.12": unit(), "site": "attn_out"}, tmp_path / "v.pt")
    assert refused(tmp_path / "v.pt").param == "site"


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt", "safetensors"])
@pytest.mark.parametrize("shape", [(2, 30, 16), (1, 1, 16), (2, 2, 2, 2)])
def test_more_dimensions_are_refused_with_the_shapes_that_are_read(
    suffix: str, shape: Any, tmp_path: Path
) -> None:
    error = refused(stored(tmp_path / f"v.{suffix}", torch.ones(shape)), layer=12)
    assert error.code == "bad_shape"
    assert str(list(shape)) in error.message
    assert "[layers, hidden]" in error.message


def test_python_objects_beside_a_vector_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", vector=unit().numpy(), layer=np.array({"a": 1}, dtype=object))
    with pytest.raises(VectorInvalid) as caught:
        load(tmp_path / "v.npz")
    assert caught.value.code == "wrong_dtype"


@pytest.mark.parametrize("key", [12, "12", "layer_12", "mlp_out.12"])
def test_a_place_is_not_a_wrapper(key: int | str, tmp_path: Path) -> None:
    torch.save({key: {"vector": unit()}}, tmp_path / "v.pt")
    error = refused(tmp_path / "v.pt", layer=3)
    assert (error.param, error.code) == (str(key), "bad_tensor")
    torch.save({key: unit()}, tmp_path / "v.pt")
    assert names(load(tmp_path / "v.pt")) == [key if "." in str(key) else "resid_post.12"]


def test_what_is_said_in_an_object_beside_it_is_read(tmp_path: Path) -> None:
    for inner, param in (({"operation": "project"}, "config.operation"), ({"k": 4}, "config")):
        given = {"vector": unit(), "layer": 12, "config": inner}
        torch.save(given, tmp_path / "v.pt")
        assert refused(tmp_path / "v.pt").param == param
