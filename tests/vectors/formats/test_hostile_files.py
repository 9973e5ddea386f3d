"""Files that are made to break whoever reads them, and arrays that are no vectors."""

import contextlib
import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.formats import load
from steersman.vectors.tensors import HookPoint
from tests.support.vectors.files import (
    BLOCKS,
    HIDDEN,
    STACK,
    gguf,
    note,
    refused,
    safetensors,
    stored,
    unit,
)
from tests.vectors.formats.make_fixtures import FIXTURES

# Hostile files


def test_a_zip_that_unpacks_to_too_much(tmp_path: Path) -> None:
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
def test_a_numpy_header_that_announces_more_than_there_is(
    shape: Any, code: str, tmp_path: Path
) -> None:
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
def test_arrays_that_are_not_vectors(value: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", value, allow_pickle=True)
    assert refused(tmp_path / "v.npy", layer=12).param
    np.savez(tmp_path / "v.npz", layer_12=value)
    assert refused(tmp_path / "v.npz").param


def test_arrays_in_every_float_and_order(tmp_path: Path) -> None:
    for dtype in ("<f2", ">f4", "<f8", ">f8"):
        np.save(tmp_path / "v.npy", STACK.numpy().astype(dtype))
        found = load(tmp_path / "v.npy", num_layers=BLOCKS)
        assert torch.allclose(found.tensors[HookPoint("resid_post", 7)], unit(7), atol=1e-3)
    np.save(tmp_path / "v.npy", np.asfortranarray(STACK.numpy()))
    assert torch.equal(load(tmp_path / "v.npy").tensors[HookPoint("resid_post", 7)], unit(7))


def test_a_pickle_inside_an_array_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (mark.touch, ())

    np.save(tmp_path / "v.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "v.npz", layer_1=np.array([Bomb()], dtype=object))
    for name in ("v.npy", "v.npz"):
        assert refused(tmp_path / name, layer=1).code == "wrong_dtype"
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt", "safetensors", "gguf"])
def test_cut_off_anywhere(suffix: str, tmp_path: Path) -> None:
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
def test_damaged_anywhere_is_an_error_or_a_vector(suffix: str, tmp_path: Path) -> None:
    path = stored(tmp_path / f"v.{suffix}", STACK[:2])
    data = path.read_bytes()
    for place in range(0, min(len(data), 600), 3):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            with contextlib.suppress(VectorInvalid):
                assert load(path, num_layers=2).tensors


def test_zero_directions_are_left_out_and_named(tmp_path: Path) -> None:
    rows = STACK.clone()
    rows[0] = 0
    rows[29] = 0
    found = load(stored(tmp_path / "v.npy", rows), num_layers=BLOCKS)
    assert len(found.tensors) == 28
    assert note(found)["left_out_zero"] == ["v.npy[0]", "v.npy[29]"]
    error = refused(gguf(tmp_path / "z.gguf", {}, {"direction.1": torch.zeros(HIDDEN)}))
    assert error.code == "all_zero"


def test_a_sparse_autoencoder_is_not_a_vector(tmp_path: Path) -> None:
    tensors = {name: torch.ones(4, HIDDEN) for name in ("W_enc", "W_dec", "b_dec")}
    error = refused(safetensors(tmp_path / "sae_weights.safetensors", {}, tensors))
    assert error.param == "W_dec"
    assert "sparse autoencoder" in error.message


def test_3d_tensors_are_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save(torch.ones(4, BLOCKS, HIDDEN), tmp_path / "mean_diffs.pt")
    error = refused(tmp_path / "mean_diffs.pt")
    assert error.code == "bad_shape"
    assert "choose one position" in error.message


def test_two_kinds_in_one_folder_are_both_named(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "repeng.gguf", tmp_path / "a.weights")
    torch.save(unit(), tmp_path / "b.pth")
    error = refused(tmp_path)
    assert error.code == "several_vectors"
    assert "a.weights, b.pth" in error.message
