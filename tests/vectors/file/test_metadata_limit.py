"""One limit on metadata, for an upload and for a change alike; and none of it stays in memory."""

import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import MAX_METADATA_BYTES, read_new, read_vector
from steersman.vectors.file.header import no_duplicates
from steersman.vectors.file.metadata import MAX_DESCRIPTION, metadata_text
from steersman.vectors.library import objects
from steersman.vectors.library.library import Library
from tests.support.vectors.make import (
    HIDDEN,
    raw_file,
    tensor_entry,
    vector,
    vector_file,
    with_metadata,
)

WORST = "\U0001f600" * MAX_DESCRIPTION
"""The description that takes the most bytes: each character is twelve in JSON's escapes."""
FILLERS: dict[str, Any] = {
    "letters": lambda n: {"method_settings": {"a": "x" * n}},
    "accents": lambda n: {"method_settings": {"a": "\u00e9" * n}},
    "characters of four bytes": lambda n: {"method_settings": {"a": "\U0001f600" * n}},
    "quotes": lambda n: {"method_settings": {"a": '"' * n}},
    "backslashes": lambda n: {"method_settings": {"a": "\\" * n}},
    "control characters": lambda n: {"method_settings": {"a": "\x01" * n}},
    "numbers that grow when written": lambda n: {"method_settings": {"a": [1e15] * n}},
    "many keys": lambda n: {"method_settings": {f"k{i}": i for i in range(n)}},
    "norms that are whole numbers": lambda n: {
        "norms": {f"resid_post.{i}": 1 for i in range(min(n, 9999))}, "method_settings": {"n": [n]}
    },
    "a description, too": lambda n: {"description": WORST, "method_settings": {"a": "x" * n}},
}  # fmt: skip


def accepted(fields: dict[str, Any]) -> bool:
    try:
        read_new(with_metadata(json.dumps(fields)))
    except VectorInvalid as error:
        if error.code not in ("metadata_too_large", "header_too_large"):
            raise
        return False
    return True


@pytest.mark.parametrize("filler", FILLERS)
def test_what_an_upload_may_have_a_change_may_keep(tmp_path: Path, filler: str) -> None:
    make = FILLERS[filler]
    low, high = 1, MAX_METADATA_BYTES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(make(middle)) else (low, middle)
    library = Library(tmp_path)
    library.add(with_metadata(json.dumps(make(low))), "full")
    settings = library.resolve("full").method_settings
    library.update("full", description=WORST)
    # Each of these writes the file anew, with all of its metadata.
    library.update("full", coefficient=-1.2345678901234567e-30)
    library.update("full", layers=(3,), positions={"start": -99999, "stop": 99999})
    changed = library.update("full", safe_range=(-1.1e-30, 1.1e30), coefficient=2.0)
    assert changed.description == WORST
    assert changed.method_settings == settings
    assert read_vector(changed.path).coefficient == 2.0
    assert Library(tmp_path).resolve("full") == changed


def test_other_tools_keys_count_too(tmp_path: Path) -> None:
    def file(n: int) -> bytes:
        return raw_file(tensor_entry(), b"\0" * 4 * HIDDEN, metadata={"theirs": "x" * n})

    library = Library(tmp_path)
    library.add(file(MAX_METADATA_BYTES - len("theirs")), "v")
    with pytest.raises(VectorInvalid) as caught:
        library.add(file(MAX_METADATA_BYTES), "w")
    assert (caught.value.param, caught.value.code) == ("__metadata__", "metadata_too_large")


def test_what_was_kept_before_there_was_a_limit_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    path.write_bytes(with_metadata(json.dumps({"method_settings": {"a": "x" * 700_000}})))
    old = read_vector(path)
    with pytest.raises(VectorInvalid) as caught:
        metadata_text(old)
    assert (caught.value.param, caught.value.code) == ("method_settings", "metadata_too_large")


def test_a_key_twice_is_found_in_linear_time() -> None:
    compared = 0

    class Watched(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    count = 20_000
    pairs: list[tuple[str, Any]] = [(Watched(f"k{n}"), n) for n in range(count)]
    assert len(no_duplicates(pairs)) == count
    with pytest.raises(VectorInvalid) as caught:
        no_duplicates([*pairs, (Watched(f"k{count - 1}"), 0)])
    assert caught.value.param == f"k{count - 1}"
    # Two whose hashes meet in one place of the table are compared, too: far fewer than these.
    assert compared < 2 * count


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_uploads_and_deletes_leave_nothing_in_memory(tmp_path: Path) -> None:
    library = Library(tmp_path)
    settings = {f"k{n}": [n, {}] for n in range(3000)}

    def rounds(first: int, last: int) -> None:
        for n in range(first, last):
            library.add(vector_file(n, method_settings=settings), "v")
            library.update("v", coefficient=float(n + 2))
            assert len(library.list()) == 1
            library.delete("v")

    rounds(0, 4)
    tracemalloc.start()
    try:
        before = held()
        rounds(4, 16)
        after = held()
    finally:
        tracemalloc.stop()
    # One such entry is more than this, as text alone: there were two dozen.
    assert after - before < len(json.dumps(settings))


def test_what_is_held_of_headers_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_CACHED_BYTES", 400_000)
    library = Library(tmp_path)
    for n in range(12):
        library.add(vector_file(n, method_settings={"a": "x" * 60_000}), f"v{n}")
    for _ in range(2):
        assert [e.method_settings["a"][:1] for e in library.list()] == ["x"] * 12
        store = library._objects
        assert 0 < store._weight <= 400_000
        assert store._weight == sum(stored.weight for stored in store._headers.values())


def test_another_servers_deletions_leave_memory_when_content_is_collected(tmp_path: Path) -> None:
    here, there = Library(tmp_path), Library(tmp_path)
    for n in range(3):
        there.add(vector_file(n), f"v{n}")
    assert len(here.list()) == 3
    there.delete("v0")
    there.delete("v1")
    assert len(here._objects._headers) == 3
    here.collect(older_than_s=-1)
    assert list(here._objects._headers) == [vector(2).digest]
