"""Every bad file gets an error that names the part, from bytes and from a path alike."""

import contextlib
import io
import os
import pickle
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import read_vector
from steersman.vectors.file.header import read_header
from steersman.vectors.library.library import Library
from tests.support.vectors.hostile import FILES
from tests.support.vectors.make import HIDDEN, raw_file, tensor_entry, vector_file


@pytest.mark.parametrize(
    ("data", "param", "code"), [f[1:] for f in FILES], ids=[f[0] for f in FILES]
)
def test_bad_file(data: Any, param: Any, code: Any, tmp_path: Path) -> None:
    with pytest.raises(VectorInvalid) as from_bytes:
        read_vector(data)
    assert (from_bytes.value.param, from_bytes.value.code) == (param, code)
    assert len(from_bytes.value.message) < 600
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(VectorInvalid) as from_path:
        read_vector(tmp_path / "file")
    assert from_path.value.message == from_bytes.value.message
    library = Library(tmp_path / "library")
    with pytest.raises(VectorInvalid):
        library.add(data, "x")
    assert library.list() == []
    assert list((tmp_path / "library").glob("*/*")) == []


def test_a_hostile_header_is_not_read() -> None:
    class Watched(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

    file = Watched(raw_file(b"{" + b" " * (90 << 20)))
    with pytest.raises(VectorInvalid):
        read_header(file, 90 << 20)
    assert file.taken == 8


def test_a_sparse_file_of_two_gigabytes_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(vector_file())
    os.truncate(path, 2 << 30)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(VectorInvalid):
        read_vector(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert time.monotonic() - start < 5


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (mark.touch, ())

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "bomb.safetensors").write_bytes(pickle.dumps(Bomb(), protocol=protocol))
        with pytest.raises(VectorInvalid):
            read_vector(tmp_path / "bomb.safetensors")
    assert not mark.exists()


def test_any_change_to_any_header_byte_is_an_error_or_a_vector() -> None:
    data = bytearray(vector_file(name="a", description="b"))
    length = int.from_bytes(data[:8], "little")
    for place in range(8 + length):
        for value in (0, 0x22, 0x7B, 0xFF):
            changed = bytes(data[:place]) + bytes([value]) + bytes(data[place + 1 :])
            with contextlib.suppress(VectorInvalid):
                assert read_vector(changed).hidden_size == HIDDEN


def test_header_limit_is_the_callers() -> None:
    data = raw_file(tensor_entry(), b"\0" * 64)
    assert read_vector(data).hidden_size == 16
    with pytest.raises(VectorInvalid) as caught:
        read_vector(data, max_header_bytes=10)
    assert caught.value.code == "header_too_large"
