"""Uploads of other tools' files: GGUF, and safetensors with other names."""

import io
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save

from steersman.vectors.formats.readers.gguf import MOST_READS
from tests.support.server.vectors_rest import URL, assert_error, upload
from tests.support.vectors.files import gguf
from tests.support.vectors.make import HIDDEN


def control_vector(path: Path, layers: int = 3) -> bytes:
    tensors = {f"direction.{n}": torch.full((HIDDEN,), float(n)) for n in range(1, layers + 1)}
    return gguf(path / "made.gguf", {}, tensors).read_bytes()


def test_a_control_vector_is_translated(client: TestClient, tmp_path: Path) -> None:
    answer = upload(client, control_vector(tmp_path), "other")
    assert answer.status_code == 201, answer.text
    assert [one["name"] for one in answer.json()["tensors"]] == [
        f"resid_post.{n}" for n in (1, 2, 3)
    ]
    assert upload(client, control_vector(tmp_path), "other").status_code == 200


def test_a_file_without_a_name_gives_its_own(client: TestClient, tmp_path: Path) -> None:
    files = {"file": ("../so happy!.gguf", control_vector(tmp_path))}
    assert client.post(URL, files=files).json()["id"] == "so-happy"


def test_layers_past_the_models_last_are_left_out(client: TestClient, tmp_path: Path) -> None:
    answer = upload(client, control_vector(tmp_path, layers=9), "deep").json()
    assert max(answer["layers"]) == 7


def test_safetensors_with_other_names(client: TestClient) -> None:
    answer = upload(client, save({"blocks.3.hook_resid_post": torch.ones(HIDDEN)}), "lens")
    assert answer.status_code == 201, answer.text
    assert answer.json()["tensors"][0]["name"] == "resid_post.3"


def test_a_name_that_says_no_place_is_refused_in_our_words(client: TestClient) -> None:
    reply = upload(client, save({"vector": torch.ones(HIDDEN)}), "x")
    assert_error(reply, 400, "vector", "unknown_tensor")


@pytest.mark.parametrize("cut", [4, 24, 200])
def test_a_gguf_file_that_is_cut_off(client: TestClient, tmp_path: Path, cut: int) -> None:
    assert_error(upload(client, control_vector(tmp_path)[:cut], "x"), 400, "file", "not_gguf")


def test_a_small_file_with_a_long_list_is_not_read_to_its_end(client: TestClient) -> None:
    """The reader would make an object of each of its values."""
    length = MOST_READS + 1000
    header = io.BytesIO()
    header.write(b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little"))
    header.write((1).to_bytes(8, "little") + b"k" + (9).to_bytes(4, "little"))
    header.write((0).to_bytes(4, "little") + length.to_bytes(8, "little") + bytes(length))
    reply = upload(client, header.getvalue(), "x")
    assert_error(reply, 400, "file", "not_a_control_vector")
