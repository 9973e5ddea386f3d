"""Every format comes in with its own values, at the layers where its own library adds them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import save_file

from steersman.vectors.file.format import read_vector, write_vector
from steersman.vectors.formats import load
from steersman.vectors.tensors import HookPoint
from tests.support.vectors.make import vector
from tests.vectors.formats.make_fixtures import FIXTURES

GGUF = ["repeng", "dialz", "cvector-generator"]


def values(seed: int, dtype: torch.dtype) -> torch.Tensor:
    """The same numbers as in make_fixtures, read back as float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, generator=generator, dtype=torch.float64).to(dtype).float()


def layers_of(found: Any) -> list[str]:
    return [f"{site}.{layer}" for site, layer in found.tensors]


@pytest.mark.parametrize("name", GGUF)
def test_gguf_is_placed_by_its_own_numbers(name: Any) -> None:
    found = load(FIXTURES / f"{name}.gguf")
    raw = {t.name: t.data for t in GGUFReader(FIXTURES / f"{name}.gguf").tensors}
    assert {f"direction.{layer}" for _, layer in found.tensors} == raw.keys()
    for (site, layer), tensor in found.tensors.items():
        assert site == "resid_post"
        assert tensor.numpy().tobytes() == raw[f"direction.{layer}"].tobytes()
    assert (found.positions, found.coefficient, found.name) == ("all", 1.0, name)


def test_gguf_tells_its_makers_apart() -> None:
    library = {n: load(FIXTURES / f"{n}.gguf").method_settings["imported"]["library"] for n in GGUF}
    assert library == {
        "repeng": "unknown",
        "dialz": "dialz",
        "cvector-generator": "llama.cpp cvector-generator",
    }


def test_as_extracted_undoes_only_a_skew_there_is() -> None:
    path = FIXTURES / "cvector-generator.gguf"
    plain, back = load(path), load(path, as_extracted=True)
    assert layers_of(plain) == ["resid_post.1", "resid_post.2", "resid_post.3"]
    assert layers_of(back) == ["resid_post.0", "resid_post.1", "resid_post.2"]
    assert torch.equal(
        back.tensors[HookPoint("resid_post", 0)], plain.tensors[HookPoint("resid_post", 1)]
    )
    note = back.method_settings["imported"]
    assert note["tensors"]["resid_post.0"] == "direction.1"
    assert (note["as_extracted"], note["layer_shift"]) == (True, -1)
    assert (note["applied_at"], note["extracted_at"]) == (
        "output of block N",
        "output of block N-1",
    )
    path = FIXTURES / "dialz.gguf"
    assert load(path, as_extracted=True).digest == load(path).digest


def test_the_generator_says_how_deep_its_model_is() -> None:
    base = load(FIXTURES / "cvector-generator.gguf").base_model
    assert base is not None
    assert (base.num_layers, base.hidden_size) == (4, 8)
    shallow = load(FIXTURES / "repeng.gguf").base_model
    assert shallow is not None
    assert shallow.num_layers is None


def test_svec_moves_from_inputs_to_outputs() -> None:
    found = load(FIXTURES / "activation-steering.svec")
    assert layers_of(found) == ["resid_post.0", "resid_post.1", "resid_post.2"]
    for _, layer in found.tensors:
        assert torch.equal(
            found.tensors[HookPoint("resid_post", layer)], values(11 + layer, torch.float32)
        )
    note = found.method_settings["imported"]
    assert note["left_out"] == ["directions.0"]
    assert note["explained_variances"]["3"] == 0.5 + 3 / 16
    back = load(FIXTURES / "activation-steering.svec", as_extracted=True)
    assert layers_of(back) == [f"resid_post.{n}" for n in range(4)]
    assert torch.equal(back.tensors[HookPoint("resid_post", 3)], values(13, torch.float32))
    kept = load(FIXTURES / "activation-steering.svec", site="resid_pre")
    assert kept.digest == found.digest


def test_caa_folder_of_one_model_and_single_files() -> None:
    found = load(FIXTURES / "caa", model="Llama-2-7b-chat-hf", layer=2)
    assert layers_of(found) == ["resid_post.1", "resid_post.2", "resid_post.3"]
    assert (found.layers, found.positions) == ((2,), "generation")
    for _, layer in found.tensors:
        assert torch.equal(
            found.tensors[HookPoint("resid_post", layer)], values(20 + layer, torch.float16)
        )
    assert found.method_settings["imported"]["dtype"] == ["float16"]
    single = load(FIXTURES / "caa" / "vec_layer_3_Llama-2-7b-chat-hf.pt")
    assert layers_of(single) == ["resid_post.3"]


def test_easyedit_and_refusal() -> None:
    found = load(FIXTURES / "easyedit")
    assert layers_of(found) == ["resid_post.0", "resid_post.2"]
    assert torch.equal(found.tensors[HookPoint("resid_post", 2)], values(32, torch.bfloat16))
    for path in (FIXTURES / "refusal", FIXTURES / "refusal" / "direction.pt"):
        found = load(path)
        assert layers_of(found) == ["resid_post.1"]
        assert torch.equal(found.tensors[HookPoint("resid_post", 1)], values(40, torch.float64))
        assert found.method_settings["imported"]["pos"] == -2
        assert found.positions == "all"


def test_a_bare_tensor_goes_where_it_is_told(tmp_path: Path) -> None:
    torch.save(torch.arange(8.0), tmp_path / "my vector.pt")
    found = load(tmp_path / "my vector.pt", layer=14)
    assert layers_of(found) == ["resid_post.14"]
    assert (found.name, found.layers) == ("my-vector", (14,))
    found = load(tmp_path / "my vector.pt", layer=14, site="attn_out", name="other")
    assert layers_of(found) == ["attn_out.14"]
    assert found.name == "other"


def test_ours_comes_back_as_it_is(tmp_path: Path) -> None:
    ours = vector(name="calm", coefficient=2.5, positions="prompt")
    (tmp_path / "file.safetensors").write_bytes(write_vector(ours))
    found = load(tmp_path / "file.safetensors")
    assert (found.digest, found.name) == (ours.digest, "calm")
    assert load(tmp_path / "file.safetensors", name="new", layer=3).layers == (3,)


@pytest.mark.parametrize("pattern", ["resid_post.{}", "blocks.{}.hook_resid_post", "direction.{}"])
def test_well_named_tensors_of_others(pattern: str, tmp_path: Path) -> None:
    tensors = {pattern.format(n): torch.full((8,), n / 4, dtype=torch.bfloat16) for n in (2, 3)}
    save_file(tensors, tmp_path / "theirs.safetensors")
    found = load(tmp_path / "theirs.safetensors")
    assert layers_of(found) == ["resid_post.2", "resid_post.3"]
    assert found.tensors[HookPoint("resid_post", 3)].tolist() == [0.75] * 8


def test_several_sites_of_others(tmp_path: Path) -> None:
    tensors = {"blocks.1.hook_attn_out": torch.ones(8), "blocks.1.hook_mlp_out": torch.ones(8)}
    save_file(tensors, tmp_path / "theirs.safetensors")
    assert layers_of(load(tmp_path / "theirs.safetensors")) == ["attn_out.1", "mlp_out.1"]


@pytest.mark.parametrize(
    "front",
    [
        "license: apache-2.0\nbase_model: org/Tiny-4\n",
        'tags:\n- steering\nlicense: "apache-2.0"\nbase_model:\n- org/Tiny-4\n- org/Other\n',
        "base_model: [org/Tiny-4]\nlicense: other\nlicense_name: apache-2.0\n",
    ],
)
@pytest.mark.parametrize("file", ["repeng.gguf", "activation-steering.svec"])
def test_a_hub_folder_says_model_and_licence(front: str, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "happy"
    folder.mkdir()
    shutil.copy(FIXTURES / file, folder)
    (folder / "README.md").write_text(f"---\n{front}---\n# Happy\nlicense: no\n")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8, "num_hidden_layers": 4}))
    found = load(folder)
    base = found.base_model
    assert base is not None
    assert (base.id, base.hidden_size, base.num_layers) == ("org/Tiny-4", 8, 4)
    assert (found.licence, found.name) == ("apache-2.0", "happy")


EVERY = [
    *FIXTURES.glob("*.gguf"),
    FIXTURES / "activation-steering.svec",
    FIXTURES / "easyedit",
    FIXTURES / "refusal",
    FIXTURES / "caa" / "vec_layer_1_Llama-2-7b-chat-hf.pt",
]


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_what_is_imported_can_be_kept(path: Any) -> None:
    found = load(path)
    again = read_vector(write_vector(found))
    assert again.digest == found.digest
    assert again.method_settings == found.method_settings
    assert set(again.norms) == {f"resid_post.{layer}" for _, layer in again.tensors}
