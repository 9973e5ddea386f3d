"""GLP files, 2.1 to 2.5 of the project's list of cases: what their keys say is done, or refused."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import read_vector
from steersman.vectors.formats import load, save_gguf
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint
from steersman.vectors.vector import SteeringVector
from tests.support.vectors.files import EYE, gguf, names, note, refused, safetensors, unit


@pytest.fixture(params=["gguf", "safetensors"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Write a file with `glp.*` keys in one of both containers."""

    def into(metadata: Any, tensors: Any = None) -> Path:
        tensors = {"direction.12": unit()} if tensors is None else tensors
        path = tmp_path / f"v.{request.param}"
        return (gguf if request.param == "gguf" else safetensors)(path, metadata, tensors)

    return into


# 2.1 to 2.5: GLP


def test_2_1_a_projection_is_one(write: Callable[..., Path]) -> None:
    metadata = {"glp.mode": "project", "glp.alpha_default": 0.5}
    found = load(write(metadata | {"glp.hook_point": "ffn_out_pre_residual"}))
    assert found.operation == Operation("project")
    assert found.coefficient == 0.5
    assert names(found) == ["mlp_out.12"]
    assert torch.equal(next(iter(found.tensors.values())), unit())


def test_2_1_a_basis_is_projected_out(write: Callable[..., Path]) -> None:
    tensors = {
        f"direction.{n}{j}": EYE[n + i].clone() for n in (3, 4) for i, j in enumerate(("", ".1"))
    }
    keys = {"glp.mode": "project", "glp.spec_version": 2, "glp.rank": 2, "glp.orthonormal": True}
    found = load(write(keys, tensors))
    assert found.operation.name == "project"
    assert names(found) == ["resid_post.3", "resid_post.4"]
    assert torch.equal(found.tensors[HookPoint("resid_post", 4)], torch.stack([EYE[4], EYE[5]]))


@pytest.mark.parametrize(
    ("key", "scales"), [("glp.dir_scales", "0.5"), ("glp.layer_scales", "12:0.5")]
)
def test_a_projection_has_one_strength(write: Callable[..., Path], key: str, scales: str) -> None:
    error = refused(write({"glp.mode": "project", "glp.spec_version": 2, key: scales}))
    assert error.param == key


@pytest.mark.parametrize("site", ["resid_post", "attn_out"])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_projection_that_is_exported_comes_back(site: str, rank: int, tmp_path: Path) -> None:
    tensors = {
        HookPoint(site, layer): EYE[layer] if rank == 1 else torch.stack([EYE[layer], EYE[0]])
        for layer in (2, 3)
    }
    ours = SteeringVector(tensors, name="no", coefficient=0.7, operation=Operation("project"))
    done = save_gguf(ours, tmp_path / "v.gguf")
    assert (done.layers, done.command) == ((2, 3), "")
    assert load(tmp_path / "v.gguf").digest == ours.digest
    # As another tool's reader has it: by the keys of GLP alone.
    reader = GGUFReader(tmp_path / "v.gguf")
    keys = {
        name: field.contents() for name, field in reader.fields.items() if name.startswith("glp.")
    }
    rows = {one.name: torch.tensor(one.data) for one in reader.tensors}
    foreign = load(gguf(tmp_path / "w.gguf", keys, rows))
    assert foreign.operation.name == "project"
    assert all(torch.equal(foreign.tensors[key], t) for key, t in tensors.items())
    assert foreign.coefficient == pytest.approx(0.7)
    with pytest.raises(VectorInvalid, match="only the direction counts"):
        save_gguf(ours, tmp_path / "x.gguf", fold_coefficient=True)


@pytest.mark.parametrize("mode", ["ablate", "Project", " ", "ADD", "add "])
def test_2_1_an_unknown_operation_is_fatal(write: Callable[..., Path], mode: str) -> None:
    error = refused(write({"glp.mode": mode}))
    assert (error.param, error.code) == ("glp.mode", "bad_glp")


@pytest.mark.parametrize("name", ["resid_post.12", "blocks.12.hook_resid_post", "layer_12", "v"])
def test_2_1_whatever_the_tensors_are_called(name: str, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "v.safetensors", {"glp.mode": "project"}, {name: unit()})
    assert refused(path, layer=12).param == "glp.mode"


def test_2_1_an_upload_to_the_server_is_read_by_the_same_rule(tmp_path: Path) -> None:
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
def test_2_2_the_hook_point_is_the_place(write: Callable[..., Path], hook: str, place: str) -> None:
    found = load(write({"glp.mode": "add", "glp.hook_point": hook}))
    assert names(found) == [place]
    assert torch.equal(next(iter(found.tensors.values())), unit())


@pytest.mark.parametrize("hook", ["residual_stream_pre_layer", "ffn_out", "resid_post", " "])
def test_2_2_another_hook_point_is_fatal(write: Callable[..., Path], hook: str) -> None:
    assert refused(write({"glp.hook_point": hook})).param == "glp.hook_point"


def test_2_2_the_hook_point_is_not_overridden(write: Callable[..., Path]) -> None:
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
def test_2_3_keys_that_cannot_be_meant_are_fatal_and_named(
    write: Callable[..., Path], metadata: dict[str, Any], param: str
) -> None:
    error = refused(write(metadata))
    assert (error.param, error.code) == (param, "bad_glp")
    assert param in error.message


def test_2_4_alpha_default_is_the_default_coefficient(write: Callable[..., Path]) -> None:
    found = load(write({"glp.mode": "add", "glp.alpha_default": 4.0}))
    assert found.coefficient == 4.0
    assert torch.equal(found.tensors[HookPoint("resid_post", 12)], unit())
    assert load(write({"glp.mode": "add"})).coefficient == 1.0
    assert load(write({"glp.alpha_default": -2.0})).coefficient == -2.0


def test_2_5_files_from_before_glp_are_to_be_exported_again(write: Callable[..., Path]) -> None:
    assert "export the vector again" in refused(write({"dspark.mode": "project"})).message


def test_glp_without_a_mode_is_added_and_block_0_is_not_valid(write: Callable[..., Path]) -> None:
    assert names(load(write({"glp.method": "means"}))) == ["resid_post.12"]
    both = {"direction.0": unit(), "direction.1": unit(1)}
    assert refused(write({"glp.mode": "add"}, both)).param == "direction.0"


def test_glp_of_rank_2_is_the_sum_of_its_scaled_directions(write: Callable[..., Path]) -> None:
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
    assert torch.equal(found.tensors[HookPoint("resid_post", 12)], EYE[0] + 0.5 * EYE[1])
    assert torch.equal(found.tensors[HookPoint("resid_post", 13)], 2 * EYE[2] + EYE[3])
    assert refused(write(keys | {"glp.mode": "project"}, tensors)).param == "glp.dir_scales"
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


def test_glp_scales_of_one_direction(write: Callable[..., Path]) -> None:
    keys = {"glp.spec_version": 2, "glp.dir_scales": "0.5", "glp.layer_scales": "12:4"}
    assert torch.equal(load(write(keys)).tensors[HookPoint("resid_post", 12)], 2 * unit())


def test_glp_scales_of_blocks_that_are_not_there(write: Callable[..., Path]) -> None:
    error = refused(write({"glp.spec_version": 2, "glp.layer_scales": "12:4,29:7"}))
    assert (error.param, error.code) == ("glp.layer_scales", "bad_glp")
    assert "29" in error.message
    assert "fetch it again" in error.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("glp.clamp_max", 3.0),
        ("glp.normalize", True),
        ("glp.positions", "last"),
        ("glp.gate", "cosine"),
        ("glp.alpha", 4.0),
        ("GLP.clamp_max", 3.0),
        ("glp.mode", ""),
    ],
)
def test_glp_keys_that_may_change_the_effect_are_refused(
    write: Callable[..., Path], key: str, value: float | bool | str
) -> None:
    error = refused(write({key: value}))
    assert (error.param, error.code) == (key, "bad_glp")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("glp.generator", "captain-vector 0.4.0"),
        ("glp.method", "paired_difference_of_means"),
        ("glp.contrast", "good_vs_bad"),
        ("glp.created", "2026-11-01"),
        ("glp.base_model", "org/Tiny"),
        ("glp.base_revision", "abc"),
        ("glp.validation.kl", "0.1"),
        ("glp.description", "calm"),
        ("glp.license", "mit"),
    ],
)
def test_glp_keys_that_only_describe_pass(write: Callable[..., Path], key: str, value: str) -> None:
    assert names(load(write({key: value}))) == ["resid_post.12"]


def test_glp_keys_are_read_in_any_capitals(write: Callable[..., Path], tmp_path: Path) -> None:
    assert load(write({"GLP.mode": "project"})).operation.name == "project"
    assert refused(write({"Glp.Mode": "ablate"})).param == "glp.mode"
    assert load(write({"GLP.Alpha_Default": 4.0})).coefficient == 4.0
    assert refused(write({"DSPARK.mode": "add"})).param == "DSPARK.mode"
    twice = refused(write({"glp.mode": "add", "GLP.mode": "project"}))
    assert (twice.param or "").lower() == "glp.mode"
    assert (twice.code, "twice" in twice.message) == ("bad_glp", True)
    data = safetensors(tmp_path / "u.safetensors", {"GLP.mode": "project"},
                       {"resid_post.12": unit()}).read_bytes()  # fmt: skip
    with pytest.raises(VectorInvalid) as caught:
        read_vector(data)
    assert caught.value.param == "glp.mode"


def test_glp_measured_elsewhere_is_a_warning(write: Callable[..., Path]) -> None:
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


def test_glp_says_who_made_it_and_for_what(tmp_path: Path) -> None:
    keys = {
        "glp.generator": "captain-vector 0.4.0", "glp.method": "paired_difference_of_means",
        "general.base_model.0.organization": "org", "general.base_model.0.name": "Tiny-30",
        "general.license": "MIT",
    }  # fmt: skip
    found = load(gguf(tmp_path / "v.gguf", keys, {"direction.12": unit()}))
    assert note(found)["library"] == "captain-vector 0.4.0"
    assert note(found)["glp"]["method"] == "paired_difference_of_means"
    assert found.base_model is not None
    assert found.base_model.id == "org/Tiny-30"
    assert found.licence == "MIT"
