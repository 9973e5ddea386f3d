"""The file: what is written is read back, and the digest is of what a vector does."""

import hashlib
import io
import json
import struct
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from steersman.vectors.errors import VectorInvalid, VectorNotFound
from steersman.vectors.file.format import (
    SITES,
    BaseModel,
    SteeringVector,
    read_tensors,
    read_vector,
    tensor_name,
    write_vector,
)
from steersman.vectors.file.metadata import Metadata
from steersman.vectors.operation import SETTINGS
from steersman.vectors.tensors import HookPoint
from steersman.vectors.vector import VectorFields
from tests.support.vectors.make import vector, vector_file

finite = st.floats(-1e6, 1e6, width=32)
text = st.text(st.characters(codec="utf-8"), max_size=40)
ranges = st.tuples(finite, finite).map(lambda pair: (min(pair), max(pair)))
positions = st.sampled_from(["generation", "after_prompt", "prompt", "all"]) | st.tuples(
    st.integers(-50, -20), st.integers(-19, -1) | st.integers(0, 9)
).map(lambda pair: {"start": pair[0], "stop": pair[1]})


@st.composite
def vectors(draw: st.DrawFn) -> SteeringVector:
    hidden = draw(st.integers(1, 9))
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from(SITES), st.integers(0, 99)),
            min_size=1, max_size=6, unique=True,
        )
    )  # fmt: skip
    tensors = {}
    for key in keys:
        steps = draw(st.none() | st.integers(1, 3))
        count = hidden * (steps or 1)
        values = torch.tensor(draw(st.lists(finite, min_size=count, max_size=count)))
        tensors[HookPoint(*key)] = values if steps is None else values.reshape(steps, hidden)
    layers = sorted({layer for _, layer in keys})
    return SteeringVector(
        tensors,
        name=draw(st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)),
        description=draw(text),
        method=draw(st.none() | text),
        method_settings=draw(st.dictionaries(text, st.integers() | text, max_size=3)),
        base_model=draw(
            st.none()
            | st.builds(BaseModel, st.none() | text, st.none() | st.just(hidden), st.just(100))
        ),
        coefficient=draw(finite),
        layers=tuple(draw(st.lists(st.sampled_from(layers), max_size=4))),
        positions=draw(positions),
        safe_range=draw(st.none() | ranges),
        norms={tensor_name(key): float(t.norm()) for key, t in tensors.items()},
        licence=draw(st.none() | text),
        created_at=draw(st.none() | st.datetimes().map(lambda t: t.isoformat())),
    )


@settings(max_examples=80, deadline=None)
@given(vectors())
def test_what_is_written_is_read_back(written: SteeringVector) -> None:
    data = write_vector(written)
    read = read_vector(data)
    assert read.digest == written.digest
    assert write_vector(read) == data
    assert {k: t.tolist() for k, t in read.tensors.items()} == {
        k: t.tolist() for k, t in written.tensors.items()
    }
    fields = vars(written).keys() - {"tensors", "digest"}
    assert {f: getattr(read, f) for f in fields} == {f: getattr(written, f) for f in fields}


@settings(max_examples=50, deadline=None)
@given(vectors())
def test_other_safetensors_tools_read_the_file(written: SteeringVector) -> None:
    tensors = load(write_vector(written))
    assert tensors.keys() == {tensor_name(key) for key in written.tensors}
    for key, tensor in written.tensors.items():
        assert torch.equal(tensors[tensor_name(key)], tensor)


def test_a_file_has_every_field_of_a_vector() -> None:
    known = {field.name for field in fields(SteeringVector)} - {"tensors", "numbers"}
    assert set(Metadata.model_fields) - set(SETTINGS) == known
    assert {field.name for field in fields(VectorFields)} < known


def test_vectors_are_compared_by_digest_only() -> None:
    one, other = vector(0), vector(0)
    assert one != other
    assert len({one, other}) == 2
    assert one.digest == other.digest


def test_a_file_of_nothing_but_named_tensors_is_a_vector() -> None:
    read = read_vector(save({"resid_post.7": torch.ones(4), "attn_out.2": torch.ones(3, 4)}))
    assert (read.coefficient, read.layers, read.positions) == (1.0, (2, 7), "generation")
    assert (read.name, read.description, read.hidden_size) == (None, "", 4)


def test_digest_is_the_documented_hash() -> None:
    made = SteeringVector(
        {
            HookPoint("resid_post", 10): torch.tensor([1.0, -2.5]),
            HookPoint("attn_out", 9): torch.tensor([[0.5, 3.0]]),
        },
        coefficient=-1.5,
        layers=(10,),
    )
    expected = hashlib.sha256(
        b"steersman vector 1\n"
        b'["attn_out.9",[1,2]]\n' + struct.pack("<2f", 0.5, 3.0)
        + b'["resid_post.10",[2]]\n' + struct.pack("<2f", 1.0, -2.5)
        + b'{"coefficient":"-0x1.8000000000000p+0","layers":[10],"positions":"generation"}\n'
    )  # fmt: skip
    assert made.digest == f"sha256:{expected.hexdigest()}"


@pytest.mark.parametrize(
    "change",
    [
        {"coefficient": 1.25},
        {"layers": (3,)},
        {"positions": "all"},
        {"positions": {"start": 0, "stop": 4}},
        {
            "tensors": {
                HookPoint("resid_post", 3): torch.zeros(16),
                HookPoint("resid_post", 5): torch.zeros(16),
            }
        },
    ],
)
def test_digest_changes_with_behaviour(change: dict[str, Any]) -> None:
    assert replace(vector(), **change).digest != vector().digest


@pytest.mark.parametrize(
    "change",
    [
        {"name": "n"},
        {"description": "d"},
        {"norms": {"resid_post.3": 1}},
        {"safe_range": (-1, 1)},
        {"licence": "MIT"},
        {"method": "caa", "method_settings": {"a": 1}},
        {"layers": (5, 3, 3)},
        {"coefficient": 1},
    ],
)
def test_digest_stays_with_descriptions_and_written_out_defaults(change: dict[str, Any]) -> None:
    assert replace(vector(), **change).digest == vector().digest


def test_minus_zero_is_the_coefficient_zero() -> None:
    assert replace(vector(), coefficient=-0.0).digest == replace(vector(), coefficient=0.0).digest


def test_other_tools_metadata_is_left_alone() -> None:
    read = read_vector(save({"resid_post.1": torch.ones(2)}, metadata={"format": "pt", "x": "y"}))
    assert read.coefficient == 1.0


def test_metadata_is_one_json_string_with_the_documented_keys(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(vector_file(name="cheerful", safe_range=(-2, 2)))
    with safe_open(tmp_path / "v", "pt") as file:
        written = json.loads(file.metadata()["steersman"])
    assert written == {
        "format_version": 1,
        "name": "cheerful",
        "coefficient": 1.0,
        "layers": [3, 5],
        "positions": "generation",
        "safe_range": [-2.0, 2.0],
    }


def test_read_tensors_reads_only_those_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    path.write_bytes(vector_file())
    found = read_tensors(path, [HookPoint("resid_post", 5)])
    path.unlink()
    assert found.keys() == {HookPoint("resid_post", 5)}
    assert torch.equal(
        found[HookPoint("resid_post", 5)], vector().tensors[HookPoint("resid_post", 5)]
    )


def test_read_tensors_errors(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    with pytest.raises(VectorNotFound):
        read_tensors(path, [HookPoint("resid_post", 5)])
    path.write_bytes(vector_file())
    with pytest.raises(VectorInvalid) as caught:
        read_tensors(path, [HookPoint("resid_post", 4)])
    assert caught.value.param == "resid_post.4"
    path.write_bytes(vector_file()[:-1])
    with pytest.raises(VectorInvalid):
        read_tensors(path, [HookPoint("resid_post", 5)])
    for bad in (torch.ones(2, dtype=torch.float16), torch.ones(2, 2, 2), torch.tensor([torch.nan])):
        path.write_bytes(save({"resid_post.5": bad}))
        with pytest.raises(VectorInvalid) as caught:
            read_tensors(path, [HookPoint("resid_post", 5)])
        assert caught.value.param == "resid_post.5"


def test_reading_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VectorNotFound):
        read_vector(tmp_path / "none")


def test_a_tensor_of_another_dtype_cannot_become_a_vector() -> None:
    with pytest.raises(VectorInvalid, match=r"to\(torch.float32\)") as caught:
        SteeringVector({HookPoint("resid_post", 3): torch.ones(4, dtype=torch.bfloat16)})
    assert caught.value.param == "resid_post.3"


def test_metadata_too_large_for_a_header_is_refused_when_written() -> None:
    with pytest.raises(VectorInvalid) as caught:
        write_vector(vector(method_settings={"log": "x" * (1 << 20)}))
    assert caught.value.param == "method_settings"


def test_a_header_as_long_as_a_pickles_first_bytes_is_read() -> None:
    # A header of 0x0480 bytes makes the file begin with 80 04, like a pickle of protocol 4.
    plain = save({"resid_post.1": torch.ones(2)})
    length = int.from_bytes(plain[:8], "little")
    header, data = plain[8 : 8 + length], plain[8 + length :]
    padded = io.BytesIO()
    padded.write((0x0480).to_bytes(8, "little") + header.ljust(0x0480) + data)
    assert padded.getvalue().startswith(b"\x80\x04")
    assert read_vector(padded.getvalue()).hidden_size == 2
