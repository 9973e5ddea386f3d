"""Files that were read as something that they are not, each with files of its kind.

Numbers are those of the project's list of cases. Sizes are those of the demo model's 30 blocks,
with a hidden size of 16.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file

from steersman.vectors.errors import PackageMissing
from steersman.vectors.file.format import SteeringVector
from steersman.vectors.formats import load, save_gguf
from steersman.vectors.formats.dose import summed_dose, unit_length
from steersman.vectors.tensors import HookPoint
from tests.support.vectors.files import (
    BLOCKS,
    HIDDEN,
    STACK,
    gguf,
    names,
    note,
    refused,
    safetensors,
    stored,
    unit,
)

# 2.6: makers


@pytest.mark.parametrize(
    ("metadata", "numbers"),
    [
        ({"controlvector.layer_count": 30}, range(5, 15)),
        ({"controlvector.layer_count": 3, "controlvector.method": "pca"}, range(1, 4)),
        ({"controlvector.model_hint": "llama", "controlvector.layer_count": 5}, range(5)),
        ({}, range(1, 4)),
    ],
)
def test_2_6_a_file_without_a_mark_has_no_maker(
    metadata: dict[str, Any], numbers: Any, tmp_path: Path
) -> None:
    path = gguf(tmp_path / "v.gguf", metadata, {f"direction.{n}": unit(n) for n in numbers})
    found = load(path)
    assert note(found)["library"] == "unknown"
    assert names(found) == [f"resid_post.{n}" for n in numbers]
    assert note(found).get("method") == metadata.get("controlvector.method")
    error = refused(path, as_extracted=True)
    assert error.param == "as_extracted"


@pytest.mark.parametrize(
    ("count", "numbers", "more", "maker"),
    [
        (3, (1, 2, 3), {}, "llama.cpp cvector-generator"),
        (30, (1, 2, 3), {}, "unknown"),
        (3, (5, 6, 7), {}, "unknown"),
        (3, (1, 2, 3), {"controlvector.method": "pca"}, "unknown"),
        (3, (1, 2, 3), {"controlvector.creator": "Acme Steering 2"}, "Acme Steering 2"),
        (3, (1, 2, 3), {"controlvector.generator": "repeng 0.4"}, "repeng"),
    ],
)
def test_2_6_what_only_looks_like_a_maker_is_not_one(
    count: int, numbers: Any, more: dict[str, Any], maker: str, tmp_path: Path
) -> None:
    writer = GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", count)
    for key, value in more.items():
        writer.add_string(key, value)
    for number in numbers:
        writer.add_tensor(f"direction.{number}", unit(number).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert note(load(tmp_path / "v.gguf"))["library"] == maker


# 2.7: past the last block


def test_2_7_a_direction_past_the_last_block_is_left_out_and_named(tmp_path: Path) -> None:
    tensors = {f"direction.{n}": unit(n) for n in range(1, 31)}
    path = gguf(tmp_path / "v.gguf", {}, tensors)
    found = load(path, num_layers=BLOCKS)
    assert names(found) == [f"resid_post.{n}" for n in range(1, 30)]
    assert note(found)["left_out_past_last_block"] == ["direction.30"]
    assert len(load(path).tensors) == 30
    assert load(path, num_layers=BLOCKS, layer=(5, 29)).layers == (5, 29)
    assert refused(path, layer=30).param == "layer"
    alone = gguf(tmp_path / "w.gguf", {}, {"direction.30": unit(), "direction.31": unit()})
    assert refused(alone).code == "layer_out_of_range"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_2_7_in_any_file_of_named_tensors(dtype: Any, tmp_path: Path) -> None:
    tensors = {f"resid_post.{n}": unit(n).to(dtype) for n in (28, 29, 30)}
    path = safetensors(tmp_path / "v.safetensors", {}, tensors)
    found = load(path, num_layers=BLOCKS)
    assert names(found) == ["resid_post.28", "resid_post.29"]
    assert found.layers == (28, 29)
    assert note(found)["left_out_past_last_block"] == ["resid_post.30"]


def test_2_7_the_folder_may_say_how_many_blocks_there_are(tmp_path: Path) -> None:
    gguf(tmp_path / "v.gguf", {}, {f"direction.{n}": unit(n) for n in (1, 2, 3, 4)})
    (tmp_path / "config.json").write_text('{"hidden_size": 16, "num_hidden_layers": 4}')
    assert names(load(tmp_path)) == ["resid_post.1", "resid_post.2", "resid_post.3"]


# 2.8: TransformerLens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("blocks.12.hook_resid_pre", "resid_post.11"),
        ("blocks.1.hook_resid_pre", "resid_post.0"),
        ("blocks.30.hook_resid_pre", "resid_post.29"),
        ("blocks.12.hook_resid_mid", "resid_mid.12"),
        ("blocks.12.hook_resid_post", "resid_post.12"),
        ("blocks.12.hook_attn_out", "attn_out.12"),
        ("blocks.12.hook_mlp_out", "mlp_out.12"),
        ("resid_pre.12", "resid_post.11"),
    ],
)
def test_2_8_names_of_transformer_lens(name: str, place: str, dtype: Any, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "v.safetensors", {}, {name: unit().to(dtype)})
    found = load(path, num_layers=BLOCKS)
    assert names(found) == [place]
    assert torch.equal(next(iter(found.tensors.values())), unit().to(dtype).float())
    torch.save({name: unit().to(dtype)}, tmp_path / "v.pt")
    assert names(load(tmp_path / "v.pt")) == [place]
    arrays: dict[str, Any] = {name: unit().numpy()}
    np.savez(tmp_path / "v.npz", **arrays)
    assert names(load(tmp_path / "v.npz")) == [place]


def test_2_8_the_input_of_block_0_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {"blocks.0.hook_resid_pre": unit(), "blocks.1.hook_resid_pre": unit(1)}
    error = refused(safetensors(tmp_path / "v.safetensors", {}, tensors))
    assert error.param == "blocks.0.hook_resid_pre"
    error = refused(safetensors(tmp_path / "v.safetensors", {}, {"resid_pre.0": unit()}))
    assert error.param == "resid_pre.0"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_2_8_one_place_under_two_names_is_refused(dtype: Any, tmp_path: Path) -> None:
    for pair in (("resid_pre.12", "resid_post.11"),
                 ("blocks.12.hook_resid_pre", "blocks.11.hook_resid_post")):  # fmt: skip
        tensors = {name: unit(n).to(dtype) for n, name in enumerate(pair)}
        error = refused(safetensors(tmp_path / "v.safetensors", {}, tensors))
        assert (error.code, error.param in pair) == ("duplicate_hook_point", True)


def test_2_8_names_out_of_order_and_mixed_sites(tmp_path: Path) -> None:
    tensors = {"blocks.9.hook_mlp_out": unit(9), "blocks.10.hook_resid_pre": unit(10),
               "blocks.2.hook_resid_post": unit(2)}  # fmt: skip
    found = load(safetensors(tmp_path / "v.safetensors", {}, tensors))
    assert names(found) == ["mlp_out.9", "resid_post.2", "resid_post.9"]
    assert torch.equal(found.tensors[HookPoint("resid_post", 9)], unit(10))


# 2.12: layouts


@pytest.mark.parametrize("suffix", ["pt", "pth", "npy", "npz", "safetensors"])
def test_2_12_a_row_for_each_block(suffix: str, tmp_path: Path) -> None:
    path = stored(tmp_path / f"v.{suffix}", STACK)
    found = load(path, num_layers=BLOCKS)
    assert names(found) == [f"resid_post.{n}" for n in range(BLOCKS)]
    assert all(torch.equal(t, unit(n)) for (_, n), t in found.tensors.items())
    assert load(path, num_layers=BLOCKS, layer=(3, 7)).layers == (3, 7)
    # Without the model, the rows are taken as they are, and that is said.
    assert load(path).digest == found.digest
    assert "row N" in note(load(path))["warnings"][0]


@pytest.mark.parametrize("suffix", ["pt", "npy"])
def test_2_12_hidden_states_have_one_more(suffix: str, tmp_path: Path) -> None:
    more = torch.cat([torch.full((1, HIDDEN), 9.0), STACK])
    found = load(stored(tmp_path / f"v.{suffix}", more), num_layers=BLOCKS)
    assert names(found) == [f"resid_post.{n}" for n in range(BLOCKS)]
    assert all(torch.equal(t, unit(n)) for (_, n), t in found.tensors.items())
    assert len(note(found)["left_out"]) == 1


def test_2_12_some_blocks_are_given_by_number(tmp_path: Path) -> None:
    path = stored(tmp_path / "v.npy", STACK[:3])
    assert refused(path).param == "layer"
    assert names(load(path, num_layers=BLOCKS, layer=(14, 15, 16))) == [
        "resid_post.14", "resid_post.15", "resid_post.16"
    ]  # fmt: skip
    assert refused(path, layer=(14, 15)).param == "layer"


@pytest.mark.parametrize(
    "tensors",
    [
        {12: unit(), 3: unit(1)},
        {"12": unit(), "3": unit(1)},
        {"layer_12": unit(), "layer_3": unit(1)},
        {"model.layers.12": unit(), "model.layers.3": unit(1)},
        {12: unit()[None], 3: unit(1)[None].half().float()},
        {"directions": {12: unit(), 3: unit(1)}},
    ],
)
def test_2_12_layers_by_key(tensors: Any, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "v.pt")
    found = load(tmp_path / "v.pt", num_layers=BLOCKS)
    assert names(found) == ["resid_post.3", "resid_post.12"]
    assert torch.equal(found.tensors[HookPoint("resid_post", 12)], unit())


def test_2_12_one_vector_needs_its_block(tmp_path: Path) -> None:
    for suffix in ("pt", "pth", "npy", "npz", "safetensors"):
        for value in (unit(), unit()[None]):
            path = stored(tmp_path / f"v.{suffix}", value)
            error = refused(path)
            assert (error.param, error.code) == ("layer", "no_layer"), suffix
            found = load(path, layer=12, num_layers=BLOCKS)
            assert names(found) == ["resid_post.12"]
            assert torch.equal(found.tensors[HookPoint("resid_post", 12)], unit())


@pytest.mark.parametrize(
    "value",
    [
        {"mlp_out": {12: unit()}},
        {"attn_out": STACK},
        {"resid_pre": {12: unit()}},
        {"project": {12: unit()}},
        {"vectors": {"ablation": {12: unit()}}},
        {"happy": unit()},
    ],
    ids=["mlp_out", "attn_out", "resid_pre", "project", "ablation", "happy"],
)
def test_2_12_a_key_that_may_say_how_it_is_meant_is_not_thrown_away(
    value: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(value, tmp_path / "v.pt")
    error = refused(tmp_path / "v.pt", layer=12)
    assert error.code == "unknown_layout"
    torch.save({"vectors": {"directions": {12: unit()}}}, tmp_path / "v.pt")
    assert names(load(tmp_path / "v.pt", num_layers=BLOCKS)) == ["resid_post.12"]


def test_2_12_a_list_is_a_stack_and_duplicates_are_refused(tmp_path: Path) -> None:
    torch.save(list(STACK), tmp_path / "v.pt")
    assert len(load(tmp_path / "v.pt", num_layers=BLOCKS).tensors) == BLOCKS
    torch.save({12: unit(), "12": unit(1)}, tmp_path / "v.pt")
    assert refused(tmp_path / "v.pt").code == "duplicate_hook_point"
    torch.save({"resid_pre.12": unit(), 11: unit(1)}, tmp_path / "v.pt")
    assert refused(tmp_path / "v.pt").code == "duplicate_hook_point"


@pytest.mark.parametrize("kind", ["pt", "pth", "npy", "npz", "safetensors", "svec", "gguf"])
@pytest.mark.parametrize("suffix", ["pt", "gguf", "bin", "safetensors", "svec", "npz", ""])
def test_1_17_what_a_file_is_goes_by_its_content(kind: str, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "README.md").write_text("# A vector\n")
    (folder / "config.json").write_text('{"hidden_size": 16, "num_hidden_layers": 30}')
    (folder / "tokenizer.json").write_text('{"model": {}}')
    made = folder / "made"
    match kind:
        case "svec":
            made.write_text(json.dumps({"directions": {"12": unit().tolist()}}))
        case "gguf":
            gguf(made, {}, {"direction.11": unit()})
        case _:
            stored(folder / f"made.{kind}", unit()).rename(made)
    path = made.rename(folder / (f"v.{suffix}" if suffix else "v"))
    layer: dict[str, Any] = {} if kind in ("svec", "gguf") else {"layer": 11}
    for place in (path, folder):
        found = load(place, **layer)
        assert names(found) == ["resid_post.11"]
        assert torch.equal(found.tensors[HookPoint("resid_post", 11)], unit())


def test_1_17_pth_in_folders_and_names_of_tools(tmp_path: Path) -> None:
    for name in ("vec_layer_12_llama.pth", "layer_12.pth"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        torch.save(unit(), folder / name)
        assert names(load(folder)) == names(load(folder / name)) == ["resid_post.12"]


def test_a_safetensors_header_that_begins_like_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    for padding in range(450, 640):
        save_file({"resid_post.1": unit()}, path, metadata={"x": "y" * padding})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header had the length 0x280")
    assert names(load(path)) == ["resid_post.1"]


# 1.9: cards


@pytest.mark.parametrize(
    ("front", "licence", "base"),
    [
        ("license: apache-2.0  # see LICENSE\nbase_model: org/Tiny # x\n",
         "apache-2.0", "org/Tiny"),
        ("license: 'apache-2.0'  # see\nbase_model:\n  - org/Tiny # the first\n  - b/c\n",
         "apache-2.0", "org/Tiny"),
        ("base_model: >-\n  org/Tiny\nlicense: |\n  mit\n", "mit", "org/Tiny"),
        ("license: other\nlicense_name: \"my: licence #1\"\n", "my: licence #1", None),
        ("license: no\nbase_model: {a: b}\n", None, None),
        ("- just\n- a list\n", None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_1_9_front_matter_is_yaml(
    front: str, licence: str | None, base: str | None, tmp_path: Path
) -> None:
    gguf(tmp_path / "v.gguf", {}, {"direction.1": unit()})
    (tmp_path / "README.md").write_text(f"---\n{front}---\n# license: gpl\n")
    found = load(tmp_path)
    assert found.licence == licence
    assert found.base_model is not None
    assert found.base_model.id == base


@pytest.mark.parametrize("front", ["license: [unclosed\n", "a: &a [*a, *b]\n", "[" * 5000 + "\n"])
def test_1_9_what_is_not_yaml_is_said_and_does_not_stop_anything(
    front: str, tmp_path: Path
) -> None:
    gguf(tmp_path / "v.gguf", {}, {"direction.1": unit()})
    (tmp_path / "README.md").write_text(f"---\n{front}---\n")
    (warning,) = note(load(tmp_path))["warnings"]
    assert "README.md is not YAML" in warning


# 2.19: doses


def test_2_19_the_summed_dose_and_what_would_be_usual() -> None:
    medians = {f"resid_post.{n}": 50.0 for n in range(BLOCKS)}
    tensors = {HookPoint("resid_post", n): unit(n) for n in range(1, 30)}
    vector = SteeringVector(tensors)
    dose = summed_dose(vector, medians)
    assert dose is not None
    assert dose.total == pytest.approx(29 / 50, rel=1e-5)
    assert dose.usual
    assert unit_length(vector)
    one = summed_dose(SteeringVector(tensors, layers=(14,)), medians)
    assert one is not None
    assert one.total == pytest.approx(0.02, rel=1e-5)
    assert (one.usual, one.better) == (False, 15.0)
    strong = summed_dose(SteeringVector(tensors, coefficient=-8.0), medians)
    assert strong is not None
    assert strong.total == pytest.approx(8 * 29 / 50, rel=1e-5)
    assert not strong.usual
    assert strong.better == -0.52
    assert summed_dose(vector, {"resid_post.1": 50.0}) is None


# 1.1: packages that are not there


def test_1_1_without_gguf_the_remedy_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf(tmp_path / "v.gguf", {}, {"direction.1": unit()})
    vector = load(path)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    for work in (lambda: load(path), lambda: save_gguf(vector, tmp_path / "out.gguf")):
        with pytest.raises(PackageMissing) as caught:
            work()
        assert "pip install gguf" in caught.value.message
    assert not (tmp_path / "out.gguf").exists()
