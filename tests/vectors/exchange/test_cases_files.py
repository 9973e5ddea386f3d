"""Files that were read as something that they are not, each with files of its kind.

Numbers are those of the project's list of cases. Sizes are those of the demo model's 30 blocks,
with a hidden size of 16.
"""

import contextlib
import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file

from tests.vectors.exchange.make_fixtures import FIXTURES
from vectors.errors import PackageMissing, VectorInvalid
from vectors.exchange import load, save_gguf
from vectors.exchange.dose import summed_dose, unit_length
from vectors.format import SteeringVector, read_vector

BLOCKS = 30
HIDDEN = 16
EYE = torch.eye(HIDDEN)


def unit(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(HIDDEN, generator=generator)
    return values / values.norm()


def gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    writer = GGUFWriter(path, "controlvector")
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def safetensors(path: Path, metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, metadata={key: str(value) for key, value in metadata.items()})
    return path


def refused(path: Path, **options: Any) -> VectorInvalid:
    with pytest.raises(VectorInvalid) as caught:
        load(path, num_layers=BLOCKS, **options)
    assert caught.value.message.startswith(f"{path.name}: ")
    return caught.value


def names(vector: SteeringVector) -> list[str]:
    return [f"{site}.{layer}" for site, layer in vector.tensors]


def note(vector: SteeringVector) -> dict[str, Any]:
    return dict(vector.method_settings["imported"])


@pytest.fixture(params=["gguf", "safetensors"])
def write(request, tmp_path):
    """Write a file with `glp.*` keys in one of both containers."""

    def into(metadata, tensors=None):
        tensors = {"direction.12": unit()} if tensors is None else tensors
        path = tmp_path / f"v.{request.param}"
        return (gguf if request.param == "gguf" else safetensors)(path, metadata, tensors)

    return into


# 2.1 to 2.5: GLP


def test_2_1_a_projection_is_refused_by_name(write):
    error = refused(write({"glp.mode": "project"}))
    assert (error.param, error.code) == ("glp.mode", "operation_not_served")
    assert "the operation `project` is not served yet" in error.message


@pytest.mark.parametrize("mode", ["ablate", "Project", " ", "ADD", "add "])
def test_2_1_an_unknown_operation_is_fatal(write, mode):
    error = refused(write({"glp.mode": mode}))
    assert (error.param, error.code) == ("glp.mode", "bad_glp")


@pytest.mark.parametrize("name", ["resid_post.12", "blocks.12.hook_resid_post", "layer_12", "v"])
def test_2_1_whatever_the_tensors_are_called(name, tmp_path):
    path = safetensors(tmp_path / "v.safetensors", {"glp.mode": "project"}, {name: unit()})
    assert refused(path, layer=12).param == "glp.mode"


def test_2_1_an_upload_to_the_server_is_read_by_the_same_rule(tmp_path):
    path = safetensors(
        tmp_path / "v.safetensors", {"glp.mode": "project"}, {"resid_post.12": unit()}
    )
    with pytest.raises(VectorInvalid) as caught:
        read_vector(path.read_bytes())
    assert caught.value.param == "glp.mode"
    for key, value in {"glp.alpha_default": "4.0", "glp.hook_point": "ffn_out_pre_residual",
                       "dspark.mode": "add"}.items():  # fmt: skip
        safetensors(path, {key: value}, {"resid_post.12": unit()})
        with pytest.raises(VectorInvalid) as caught:
            read_vector(path.read_bytes())
        assert caught.value.param == key
    plain = {"glp.mode": "add", "glp.hook_point": "residual_stream_post_layer",
             "glp.alpha_default": "1.0", "glp.method": "means", "author": "somebody"}  # fmt: skip
    safetensors(path, plain, {"resid_post.12": unit()})
    assert read_vector(path.read_bytes()).coefficient == 1.0


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("residual_stream_post_layer", "resid_post.12"),
        ("ffn_out_pre_residual", "mlp_out.12"),
        ("attn_out_pre_residual", "attn_out.12"),
    ],
)
def test_2_2_the_hook_point_is_the_place(write, hook, place):
    found = load(write({"glp.mode": "add", "glp.hook_point": hook}))
    assert names(found) == [place]
    assert torch.equal(next(iter(found.tensors.values())), unit())


@pytest.mark.parametrize("hook", ["residual_stream_pre_layer", "ffn_out", "resid_post", " "])
def test_2_2_another_hook_point_is_fatal(write, hook):
    assert refused(write({"glp.hook_point": hook})).param == "glp.hook_point"


def test_2_2_the_hook_point_is_not_overridden(write):
    path = write({"glp.hook_point": "ffn_out_pre_residual"})
    assert refused(path, site="resid_post").param == "site"
    assert refused(path, as_extracted=True).param == "as_extracted"


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({"glp.spec_version": 3}, "glp.spec_version"),
        ({"glp.spec_version": 0}, "glp.spec_version"),
        ({"glp.spec_version": "two"}, "glp.spec_version"),
        ({"glp.layer_scales": "12:0.5"}, "glp.layer_scales"),
        ({"glp.spec_version": 1, "glp.layer_scales": "12:0.5"}, "glp.layer_scales"),
        ({"glp.dir_scales": "0.5"}, "glp.dir_scales"),
        ({"glp.rank": 2}, "glp.rank"),
        ({"glp.spec_version": 2, "glp.rank": 0}, "glp.rank"),
        ({"glp.spec_version": 2, "glp.rank": 2}, "glp.orthonormal"),
        ({"glp.spec_version": 2, "glp.rank": 2, "glp.orthonormal": False}, "glp.orthonormal"),
        ({"glp.spec_version": 2, "glp.rank": 2, "glp.orthonormal": True}, "glp.rank"),
        ({"glp.orthonormal": "perhaps"}, "glp.orthonormal"),
        ({"glp.spec_version": 2, "glp.dir_scales": "0.5,1"}, "glp.dir_scales"),
        ({"glp.spec_version": 2, "glp.dir_scales": "nan"}, "glp.dir_scales"),
        ({"glp.spec_version": 2, "glp.layer_scales": "0.5"}, "glp.layer_scales"),
        ({"glp.spec_version": 2, "glp.layer_scales": "12:x"}, "glp.layer_scales"),
        ({"glp.spec_version": 2, "glp.layer_scales": "12:1,12:2"}, "glp.layer_scales"),
        ({"glp.alpha_default": "inf"}, "glp.alpha_default"),
        ({"glp.alpha_default": "strong"}, "glp.alpha_default"),
        ({"glp.layer_ids_zero_based": "11"}, "glp.layer_ids_zero_based"),
        ({"glp.layer_ids_zero_based": "11,12"}, "glp.layer_ids_zero_based"),
        ({"glp.structure": "per-execution-step"}, "glp.structure"),
        ({"glp.content_sha256": "0" * 64}, "glp.content_sha256"),
        ({"glp.content_sha256": "abc"}, "glp.content_sha256"),
        ({"dspark.mode": "project"}, "dspark.mode"),
        ({"dspark.rank": 1, "glp.mode": "add"}, "dspark.rank"),
    ],
)
def test_2_3_keys_that_cannot_be_meant_are_fatal_and_named(write, metadata, param):
    error = refused(write(metadata))
    assert (error.param, error.code) == (param, "bad_glp")
    assert param in error.message


def test_2_4_alpha_default_is_the_default_coefficient(write):
    found = load(write({"glp.mode": "add", "glp.alpha_default": 4.0}))
    assert found.coefficient == 4.0
    assert torch.equal(found.tensors["resid_post", 12], unit())
    assert load(write({"glp.mode": "add"})).coefficient == 1.0
    assert load(write({"glp.alpha_default": -2.0})).coefficient == -2.0


def test_2_5_files_from_before_glp_are_to_be_exported_again(write):
    assert "export the vector again" in refused(write({"dspark.mode": "project"})).message


def test_glp_without_a_mode_is_added_and_block_0_is_not_valid(write):
    assert names(load(write({"glp.method": "means"}))) == ["resid_post.12"]
    both = {"direction.0": unit(), "direction.1": unit(1)}
    assert refused(write({"glp.mode": "add"}, both)).param == "direction.0"


def test_glp_of_rank_2_is_the_sum_of_its_scaled_directions(write):
    tensors = {
        "direction.12": EYE[0].clone(), "direction.12.1": EYE[1].clone(),
        "direction.13": EYE[2].clone(), "direction.13.1": EYE[3].clone(),
    }  # fmt: skip
    raw = b"".join(tensors[name].numpy().tobytes() for name in tensors)
    keys = {
        "glp.mode": "add", "glp.spec_version": 2, "glp.rank": 2, "glp.orthonormal": True,
        "glp.dir_scales": "1.0,0.5", "glp.layer_scales": "13:2", "glp.alpha_default": 3.0,
        "glp.content_sha256": hashlib.sha256(raw).hexdigest(),
    }  # fmt: skip
    found = load(write(keys, tensors))
    assert found.coefficient == 3.0
    assert torch.equal(found.tensors["resid_post", 12], EYE[0] + 0.5 * EYE[1])
    assert torch.equal(found.tensors["resid_post", 13], 2 * EYE[2] + EYE[3])
    assert refused(write(keys | {"glp.mode": "project"}, tensors)).code == "operation_not_served"
    for name, changed in {"direction.12.1": EYE[0] + EYE[1], "direction.13": 2 * EYE[2]}.items():
        wrong = {key: value for key, value in keys.items() if key != "glp.content_sha256"}
        error = refused(write(wrong, tensors | {name: changed}))
        assert error.param == "glp.orthonormal"
    assert refused(write(keys, tensors | {"direction.12": EYE[5].clone()})).param == (
        "glp.content_sha256"
    )
    del tensors["direction.13.1"]
    keys.pop("glp.content_sha256")
    assert refused(write(keys, tensors)).param == "glp.rank"


def test_glp_scales_of_one_direction(write):
    keys = {"glp.spec_version": 2, "glp.dir_scales": "0.5", "glp.layer_scales": "12:4,29:7"}
    assert torch.equal(load(write(keys)).tensors["resid_post", 12], 2 * unit())


def test_glp_measured_elsewhere_is_a_warning(write):
    keys = {
        "glp.hook_point": "ffn_out_pre_residual",
        "glp.derived_at": "residual_stream_post_layer",
    }
    found = load(write(keys))
    assert names(found) == ["mlp_out.12"]
    (warning,) = note(found)["warnings"]
    assert "glp.derived_at" in warning
    same = {"glp.derived_at": "residual_stream_post_layer"}
    assert "warnings" not in note(load(write(same)))


def test_glp_says_who_made_it_and_for_what(tmp_path):
    keys = {
        "glp.generator": "captain-vector 0.4.0", "glp.method": "paired_difference_of_means",
        "general.base_model.0.organization": "org", "general.base_model.0.name": "Tiny-30",
        "general.license": "MIT",
    }  # fmt: skip
    found = load(gguf(tmp_path / "v.gguf", keys, {"direction.12": unit()}))
    assert note(found)["library"] == "captain-vector 0.4.0"
    assert note(found)["glp"]["method"] == "paired_difference_of_means"
    assert found.base_model.id == "org/Tiny-30"
    assert found.licence == "MIT"


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
def test_2_6_a_file_without_a_mark_has_no_maker(metadata, numbers, tmp_path):
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
def test_2_6_what_only_looks_like_a_maker_is_not_one(count, numbers, more, maker, tmp_path):
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


def test_2_7_a_direction_past_the_last_block_is_left_out_and_named(tmp_path):
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
def test_2_7_in_any_file_of_named_tensors(dtype, tmp_path):
    tensors = {f"resid_post.{n}": unit(n).to(dtype) for n in (28, 29, 30)}
    path = safetensors(tmp_path / "v.safetensors", {}, tensors)
    found = load(path, num_layers=BLOCKS)
    assert names(found) == ["resid_post.28", "resid_post.29"]
    assert found.layers == (28, 29)
    assert note(found)["left_out_past_last_block"] == ["resid_post.30"]


def test_2_7_the_folder_may_say_how_many_blocks_there_are(tmp_path):
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
def test_2_8_names_of_transformer_lens(name, place, dtype, tmp_path):
    path = safetensors(tmp_path / "v.safetensors", {}, {name: unit().to(dtype)})
    found = load(path, num_layers=BLOCKS)
    assert names(found) == [place]
    assert torch.equal(next(iter(found.tensors.values())), unit().to(dtype).float())
    torch.save({name: unit().to(dtype)}, tmp_path / "v.pt")
    assert names(load(tmp_path / "v.pt")) == [place]
    np.savez(tmp_path / "v.npz", **{name: unit().numpy()})
    assert names(load(tmp_path / "v.npz")) == [place]


def test_2_8_the_input_of_block_0_is_refused_by_name(tmp_path):
    tensors = {"blocks.0.hook_resid_pre": unit(), "blocks.1.hook_resid_pre": unit(1)}
    error = refused(safetensors(tmp_path / "v.safetensors", {}, tensors))
    assert error.param == "blocks.0.hook_resid_pre"
    error = refused(safetensors(tmp_path / "v.safetensors", {}, {"resid_pre.0": unit()}))
    assert error.param == "resid_pre.0"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_2_8_one_place_under_two_names_is_refused(dtype, tmp_path):
    for pair in (("resid_pre.12", "resid_post.11"),
                 ("blocks.12.hook_resid_pre", "blocks.11.hook_resid_post")):  # fmt: skip
        tensors = {name: unit(n).to(dtype) for n, name in enumerate(pair)}
        error = refused(safetensors(tmp_path / "v.safetensors", {}, tensors))
        assert (error.code, error.param in pair) == ("duplicate_hook_point", True)


def test_2_8_names_out_of_order_and_mixed_sites(tmp_path):
    tensors = {"blocks.9.hook_mlp_out": unit(9), "blocks.10.hook_resid_pre": unit(10),
               "blocks.2.hook_resid_post": unit(2)}  # fmt: skip
    found = load(safetensors(tmp_path / "v.safetensors", {}, tensors))
    assert names(found) == ["mlp_out.9", "resid_post.2", "resid_post.9"]
    assert torch.equal(found.tensors["resid_post", 9], unit(10))


# 2.12: layouts


STACK = torch.stack([unit(n) for n in range(BLOCKS)])


@pytest.mark.parametrize("suffix", ["pt", "pth", "npy", "npz", "safetensors"])
def test_2_12_a_row_for_each_block(suffix, tmp_path):
    path = stored(tmp_path / f"v.{suffix}", STACK)
    found = load(path, num_layers=BLOCKS)
    assert names(found) == [f"resid_post.{n}" for n in range(BLOCKS)]
    assert all(torch.equal(t, unit(n)) for (_, n), t in found.tensors.items())
    assert load(path, num_layers=BLOCKS, layer=(3, 7)).layers == (3, 7)
    # Without the model, the rows are taken as they are, and that is said.
    assert load(path).digest == found.digest
    assert "row N" in note(load(path))["warnings"][0]


@pytest.mark.parametrize("suffix", ["pt", "npy"])
def test_2_12_hidden_states_have_one_more(suffix, tmp_path):
    more = torch.cat([torch.full((1, HIDDEN), 9.0), STACK])
    found = load(stored(tmp_path / f"v.{suffix}", more), num_layers=BLOCKS)
    assert names(found) == [f"resid_post.{n}" for n in range(BLOCKS)]
    assert all(torch.equal(t, unit(n)) for (_, n), t in found.tensors.items())
    assert len(note(found)["left_out"]) == 1


def test_2_12_some_blocks_are_given_by_number(tmp_path):
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
def test_2_12_layers_by_key(tensors, tmp_path):
    torch.save(tensors, tmp_path / "v.pt")
    found = load(tmp_path / "v.pt", num_layers=BLOCKS)
    assert names(found) == ["resid_post.3", "resid_post.12"]
    assert torch.equal(found.tensors["resid_post", 12], unit())


def test_2_12_one_vector_needs_its_block(tmp_path):
    for suffix in ("pt", "pth", "npy", "npz", "safetensors"):
        for value in (unit(), unit()[None]):
            path = stored(tmp_path / f"v.{suffix}", value)
            error = refused(path)
            assert (error.param, error.code) == ("layer", "no_layer"), suffix
            found = load(path, layer=12, num_layers=BLOCKS)
            assert names(found) == ["resid_post.12"]
            assert torch.equal(found.tensors["resid_post", 12], unit())


def test_2_12_a_list_is_a_stack_and_duplicates_are_refused(tmp_path):
    torch.save(list(STACK), tmp_path / "v.pt")
    assert len(load(tmp_path / "v.pt", num_layers=BLOCKS).tensors) == BLOCKS
    torch.save({12: unit(), "12": unit(1)}, tmp_path / "v.pt")
    assert refused(tmp_path / "v.pt").code == "duplicate_hook_point"
    torch.save({"resid_pre.12": unit(), 11: unit(1)}, tmp_path / "v.pt")
    assert refused(tmp_path / "v.pt").code == "duplicate_hook_point"


def stored(path: Path, value: torch.Tensor) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, value.numpy())
        case ".npz":
            np.savez(path, value.numpy())
        case ".safetensors":
            save_file({"v": value.contiguous()}, path)
        case _:
            torch.save(value.clone(), path)
    return path


# 1.17: one dispatcher


@pytest.mark.parametrize("kind", ["pt", "pth", "npy", "npz", "safetensors", "svec", "gguf"])
@pytest.mark.parametrize("suffix", ["pt", "gguf", "bin", "safetensors", "svec", "npz", ""])
def test_1_17_what_a_file_is_goes_by_its_content(kind, suffix, tmp_path):
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
    layer = {} if kind in ("svec", "gguf") else {"layer": 11}
    for place in (path, folder):
        found = load(place, **layer)
        assert names(found) == ["resid_post.11"]
        assert torch.equal(found.tensors["resid_post", 11], unit())


def test_1_17_pth_in_folders_and_names_of_tools(tmp_path):
    for name in ("vec_layer_12_llama.pth", "layer_12.pth"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        torch.save(unit(), folder / name)
        assert names(load(folder)) == names(load(folder / name)) == ["resid_post.12"]


def test_a_safetensors_header_that_begins_like_a_pickle(tmp_path):
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
def test_1_9_front_matter_is_yaml(front, licence, base, tmp_path):
    gguf(tmp_path / "v.gguf", {}, {"direction.1": unit()})
    (tmp_path / "README.md").write_text(f"---\n{front}---\n# license: gpl\n")
    found = load(tmp_path)
    assert found.licence == licence
    assert found.base_model.id == base


@pytest.mark.parametrize("front", ["license: [unclosed\n", "a: &a [*a, *b]\n", "[" * 5000 + "\n"])
def test_1_9_what_is_not_yaml_is_said_and_does_not_stop_anything(front, tmp_path):
    gguf(tmp_path / "v.gguf", {}, {"direction.1": unit()})
    (tmp_path / "README.md").write_text(f"---\n{front}---\n")
    (warning,) = note(load(tmp_path))["warnings"]
    assert "README.md is not YAML" in warning


# 2.19: doses


def test_2_19_the_summed_dose_and_what_would_be_usual():
    medians = {f"resid_post.{n}": 50.0 for n in range(BLOCKS)}
    tensors = {("resid_post", n): unit(n) for n in range(1, 30)}
    vector = SteeringVector(tensors)
    dose = summed_dose(vector, medians)
    assert dose.total == pytest.approx(29 / 50, rel=1e-5)
    assert dose.usual
    assert unit_length(vector)
    one = summed_dose(SteeringVector(tensors, layers=(14,)), medians)
    assert (one.total, one.usual, one.better) == (pytest.approx(0.02, rel=1e-5), False, 15.0)
    strong = summed_dose(SteeringVector(tensors, coefficient=-8.0), medians)
    assert (strong.total, strong.usual) == (pytest.approx(8 * 29 / 50, rel=1e-5), False)
    assert strong.better == -0.52
    assert summed_dose(vector, {"resid_post.1": 50.0}) is None


# 1.1: packages that are not there


def test_1_1_without_gguf_the_remedy_is_said_before_any_work(tmp_path, monkeypatch):
    path = gguf(tmp_path / "v.gguf", {}, {"direction.1": unit()})
    vector = load(path)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    for work in (lambda: load(path), lambda: save_gguf(vector, tmp_path / "out.gguf")):
        with pytest.raises(PackageMissing) as caught:
            work()
        assert "pip install gguf" in caught.value.message
    assert not (tmp_path / "out.gguf").exists()


# Hostile files


def test_a_zip_that_unpacks_to_too_much(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (30, 10_000_000)}
    )
    for name, member in (("v.npz", "12.npy"), ("v.pt", "archive/data/0")):
        with (
            zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(member, "w", force_zip64=True) as file,
        ):
            file.write(header.getvalue())
            for _ in range(300):
                file.write(bytes(1 << 20))
        assert refused(tmp_path / name, layer=12).code == "too_large"


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((1 << 60,), "truncated"),
        ((30, 1 << 40), "truncated"),
        ((50,), "truncated"),
        ((17,), "not_numpy"),
    ],
)
def test_a_numpy_header_that_announces_more_than_there_is(shape, code, tmp_path):
    with (tmp_path / "v.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        file.write(bytes(64))
    assert refused(tmp_path / "v.npy", layer=12).code == code


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, 2, 3]), np.array(["a"]), np.array([1 + 2j]), np.array([True]),
        np.array([{"a": 1}], dtype=object), np.float32(1.0), np.zeros((0,), np.float32),
        np.zeros((2, 3, 4), np.float32), np.array([np.nan, 1.0]), np.array([np.inf, 1.0]),
        np.array([1e300, 1.0]), np.zeros(8, np.float32), np.zeros((30, 8), np.float32),
        np.zeros((30, 0), np.float32),
    ],
)  # fmt: skip
def test_arrays_that_are_not_vectors(value, tmp_path):
    np.save(tmp_path / "v.npy", value, allow_pickle=True)
    assert refused(tmp_path / "v.npy", layer=12).param
    np.savez(tmp_path / "v.npz", layer_12=value)
    assert refused(tmp_path / "v.npz").param


def test_arrays_in_every_float_and_order(tmp_path):
    for dtype in ("<f2", ">f4", "<f8", ">f8"):
        np.save(tmp_path / "v.npy", STACK.numpy().astype(dtype))
        found = load(tmp_path / "v.npy", num_layers=BLOCKS)
        assert torch.allclose(found.tensors["resid_post", 7], unit(7), atol=1e-3)
    np.save(tmp_path / "v.npy", np.asfortranarray(STACK.numpy()))
    assert torch.equal(load(tmp_path / "v.npy").tensors["resid_post", 7], unit(7))


def test_a_pickle_inside_an_array_is_never_run(tmp_path):
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (mark.touch, ())

    np.save(tmp_path / "v.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "v.npz", layer_1=np.array([Bomb()], dtype=object))
    for name in ("v.npy", "v.npz"):
        assert refused(tmp_path / name, layer=1).code == "wrong_dtype"
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt", "safetensors", "gguf"])
def test_cut_off_anywhere(suffix, tmp_path):
    path = tmp_path / f"v.{suffix}"
    if suffix == "gguf":
        gguf(path, {"glp.mode": "add"}, {"direction.12": unit()})
    else:
        stored(path, STACK)
    data = path.read_bytes()
    for stop in {1, 4, 7, 8, 12, 60, 200, len(data) // 2, len(data) - 40, len(data) - 1}:
        path.write_bytes(data[:stop])
        assert refused(path, layer=12).code


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt"])
def test_damaged_anywhere_is_an_error_or_a_vector(suffix, tmp_path):
    path = stored(tmp_path / f"v.{suffix}", STACK[:2])
    data = path.read_bytes()
    for place in range(0, min(len(data), 600), 3):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            with contextlib.suppress(VectorInvalid):
                assert load(path, num_layers=2).tensors


def test_zero_directions_are_left_out_and_named(tmp_path):
    rows = STACK.clone()
    rows[0] = 0
    rows[29] = 0
    found = load(stored(tmp_path / "v.npy", rows), num_layers=BLOCKS)
    assert len(found.tensors) == 28
    assert note(found)["left_out_zero"] == ["v.npy[0]", "v.npy[29]"]
    error = refused(gguf(tmp_path / "z.gguf", {}, {"direction.1": torch.zeros(HIDDEN)}))
    assert error.code == "all_zero"


def test_a_sparse_autoencoder_is_not_a_vector(tmp_path):
    tensors = {name: torch.ones(4, HIDDEN) for name in ("W_enc", "W_dec", "b_dec")}
    error = refused(safetensors(tmp_path / "sae_weights.safetensors", {}, tensors))
    assert error.param == "W_dec"
    assert "sparse autoencoder" in error.message


def test_3d_tensors_are_refused_with_the_remedy(tmp_path):
    torch.save(torch.ones(4, BLOCKS, HIDDEN), tmp_path / "mean_diffs.pt")
    error = refused(tmp_path / "mean_diffs.pt")
    assert error.code == "bad_shape"
    assert "choose one position" in error.message


def test_two_kinds_in_one_folder_are_both_named(tmp_path):
    shutil.copy(FIXTURES / "repeng.gguf", tmp_path / "a.weights")
    torch.save(unit(), tmp_path / "b.pth")
    error = refused(tmp_path)
    assert error.code == "several_vectors"
    assert "a.weights, b.pth" in error.message
