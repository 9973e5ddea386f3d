"""Export: what llama.cpp and the gguf reader take, exact floats, and refusals with a remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from steersman.vectors.errors import LibraryError, VectorInvalid
from steersman.vectors.file.format import BaseModel, SteeringVector
from steersman.vectors.formats import load, save_gguf
from steersman.vectors.tensors import HookPoint
from tests.support.vectors.make import vector
from tests.vectors.formats.make_fixtures import FIXTURES


def llama_cpp_load_one(path: Path, strength: float = 1.0) -> tuple[int, np.ndarray]:
    """llama.cpp common/common.cpp, common_control_vector_load_one: its checks, in its order."""
    n_embd, data = -1, np.zeros(0, np.float32)
    tensors = GGUFReader(path).tensors
    assert tensors, "no direction tensors found"
    for tensor in tensors:
        prefix, dot, rest = tensor.name.partition(".")
        layer_idx = int(rest) if dot and prefix == "direction" else -1
        assert layer_idx >= 0, "invalid/unparsable direction tensor layer index"
        assert layer_idx != 0, "invalid (zero) direction tensor layer index"
        assert tensor.tensor_type.name == "F32", "invalid (non-F32) direction tensor type"
        assert len(tensor.shape) == 1, "invalid (non-1D) direction tensor shape"
        if n_embd == -1:
            n_embd = tensor.n_elements
        assert tensor.n_elements == n_embd, "does not match previous dimensions"
        data = np.pad(data, (0, max(0, n_embd * layer_idx - data.size)))
        data[n_embd * (layer_idx - 1) : n_embd * layer_idx] += tensor.data * np.float32(strength)
    return n_embd, data


def test_llama_cpp_takes_it_and_adds_it_at_the_same_blocks(tmp_path: Path) -> None:
    ours = vector(layers=(1, 3, 4))
    save_gguf(ours, tmp_path / "v.gguf")
    n_embd, data = llama_cpp_load_one(tmp_path / "v.gguf")
    rows = data.reshape(-1, n_embd)
    for il in range(1, 5):  # llama_adapter_cvec::apply reads layer il from n_embd * (il - 1)
        wanted = ours.tensors.get(HookPoint("resid_post", il), torch.zeros(16))
        assert rows[il - 1].tobytes() == wanted.numpy().tobytes()


def test_the_gguf_reader_finds_what_repeng_asks_for(tmp_path: Path) -> None:
    ours = vector(base_model=BaseModel("org/model", 16, 6))
    save_gguf(ours, tmp_path / "v.gguf")
    reader = GGUFReader(tmp_path / "v.gguf")
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "org/model"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    assert [t.name for t in reader.tensors] == ["direction.3", "direction.5"]


def test_ours_to_gguf_to_ours(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        HookPoint("resid_post", n): torch.randn(8, generator=generator) * 10.0**n
        for n in (1, 2, 30)
    }
    tensors[HookPoint("resid_post", 2)][:3] = torch.tensor([-0.0, 1e-45, 3.4028235e38])
    ours = SteeringVector(
        tensors, name="calm", description="d", coefficient=-2.5, positions="prompt",
        safe_range=(-3, 0), licence="MIT", norms={"resid_post.1": 7.0}, layers=(1, 2, 30),
    )  # fmt: skip
    save_gguf(ours, tmp_path / "a.gguf")
    again = load(tmp_path / "a.gguf")
    assert again.digest == ours.digest
    assert {k: t.numpy().tobytes() for k, t in again.tensors.items()} == {
        k: t.numpy().tobytes() for k, t in ours.tensors.items()
    }
    fields = vars(ours).keys() - {"tensors", "digest"}
    assert {f: getattr(again, f) for f in fields} == {f: getattr(ours, f) for f in fields}
    save_gguf(again, tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


@pytest.mark.parametrize("name", ["repeng", "dialz", "cvector-generator"])
def test_gguf_to_ours_to_gguf(name: str, tmp_path: Path) -> None:
    save_gguf(load(FIXTURES / f"{name}.gguf"), tmp_path / "v.gguf")
    before, after = (GGUFReader(p) for p in (FIXTURES / f"{name}.gguf", tmp_path / "v.gguf"))
    assert {t.name: t.data.tobytes() for t in after.tensors} == {
        t.name: t.data.tobytes() for t in before.tensors
    }
    assert after.fields["controlvector.model_hint"].contents() == "llama"


def test_only_the_default_layers_unless_told(tmp_path: Path) -> None:
    ours = vector(layers=(3, 5))
    narrow = SteeringVector(ours.tensors, layers=(5,), norms={"resid_post.3": 1, "resid_post.5": 2})
    assert save_gguf(narrow, tmp_path / "a.gguf").layers == (5,)
    assert list(load(tmp_path / "a.gguf").norms) == ["resid_post.5"]
    assert save_gguf(narrow, tmp_path / "b.gguf", layers=[3, 5]).layers == (3, 5)


def test_the_coefficient_is_left_unless_folded(tmp_path: Path) -> None:
    ours = vector(coefficient=1.5)
    left = save_gguf(ours, tmp_path / "left.gguf")
    assert left.strength == 1.5
    assert left.command == f"--control-vector-scaled {tmp_path / 'left.gguf'}:1.5"
    folded = save_gguf(ours, tmp_path / "folded.gguf", fold_coefficient=True)
    assert (folded.strength, folded.command) == (1.0, f"--control-vector {folded.path}")
    with_strength = llama_cpp_load_one(left.path, left.strength)[1]
    assert np.array_equal(llama_cpp_load_one(folded.path)[1], with_strength)
    assert load(folded.path).coefficient == 1.0


def test_inputs_of_blocks_become_outputs_of_the_blocks_before(tmp_path: Path) -> None:
    tensors = {HookPoint("resid_pre", 4): torch.arange(8.0)}
    ours = SteeringVector(tensors, norms={"resid_pre.4": 2.0})
    assert save_gguf(ours, tmp_path / "v.gguf").layers == (3,)
    again = load(tmp_path / "v.gguf")
    assert torch.equal(again.tensors[HookPoint("resid_post", 3)], torch.arange(8.0))
    assert again.norms == {"resid_post.3": 2.0}


@pytest.mark.parametrize(
    ("tensors", "code", "words"),
    [
        (
            {HookPoint("resid_post", 0): (8,), HookPoint("resid_post", 2): (8,)},
            "layer_out_of_range",
            "[2]",
        ),
        ({HookPoint("resid_pre", 1): (8,)}, "layer_out_of_range", "direction.0"),
        (
            {HookPoint("attn_out", 3): (8,)},
            "site_not_in_format",
            "one site, resid_post or resid_pre",
        ),
        (
            {HookPoint("resid_post", 3): (8,), HookPoint("mlp_out", 3): (8,)},
            "site_not_in_format",
            "one site, resid_post or resid_pre",
        ),
        ({HookPoint("resid_post", 3): (5, 8)}, "bad_shape", "export one step"),
    ],
)
def test_what_it_cannot_say_is_refused(tensors: Any, code: str, words: str, tmp_path: Path) -> None:
    ours = SteeringVector({key: torch.ones(shape) for key, shape in tensors.items()})
    with pytest.raises(VectorInvalid) as caught:
        save_gguf(ours, tmp_path / "v.gguf")
    assert caught.value.code == code
    assert words in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_layer_zero_can_be_left_out(tmp_path: Path) -> None:
    ours = vector(layers=(0, 2))
    assert save_gguf(ours, tmp_path / "v.gguf", layers=[2]).layers == (2,)
    with pytest.raises(VectorInvalid):
        save_gguf(ours, tmp_path / "v.gguf", layers=[7])


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(LibraryError):
        save_gguf(vector(), tmp_path / "nowhere" / "v.gguf")
