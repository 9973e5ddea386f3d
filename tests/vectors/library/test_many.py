"""Ten thousand vectors: opening the library reads names, and no vector before it is used."""

import builtins
import io
import os
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.library.library import Library
from steersman.vectors.library.record import Record
from tests.support.vectors.make import vector_file

COUNT = 10_000
REAL = 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of `COUNT` names, each with a file. Most files are the first one under another
    name: only the first `REAL` are what their digests say."""
    root = tmp_path_factory.mktemp("many")
    library = Library(root)
    for n in range(REAL):
        library.add(vector_file(n), f"real{n}")
    first = library.resolve("real0").path
    for n in range(COUNT - REAL):
        name, digest = f"name{n}", f"{n:064x}"
        os.link(first, first.with_name(f"{digest}.safetensors"))
        record = Record(name, (f"sha256:{digest}",), created_at=1, updated_at=1)
        (root / "names" / f"{name}.json").write_bytes(record.to_json())
    return root


@pytest.fixture(scope="module")
def library(root: Path) -> Library:
    return Library(root)


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many files of each folder have been opened, by any of Python's ways."""
    seen: Counter[str] = Counter()
    plain_open, low_open = builtins.open, os.open

    def opening(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, str | os.PathLike):
            seen[_folder(file)] += 1
        return plain_open(file, *args, **kwargs)

    def low_opening(path: Path, *args: Any, **kwargs: Any) -> int:
        seen[_folder(path)] += 1
        return low_open(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", opening)
    monkeypatch.setattr(io, "open", opening)
    monkeypatch.setattr(os, "open", low_opening)
    return seen


def _folder(path: str | os.PathLike[str]) -> str:
    return os.path.basename(os.path.dirname(path))


def test_opening_reads_each_name_once_and_no_vector(root: Path, opens: Counter[str]) -> None:
    library = Library(root)
    assert library.count() == COUNT
    assert opens["names"] == COUNT
    assert opens["objects"] == 0
    assert library.problems == {}


def test_a_vector_is_opened_when_it_is_used_and_then_remembered(
    library: Library, opens: Counter[str]
) -> None:
    opens.clear()
    for _ in range(3):
        for n in range(REAL):
            assert library.resolve(f"real{n}").name == f"real{n}"
    assert opens == {"objects": REAL}


def test_a_page_opens_only_its_own(root: Path, opens: Counter[str]) -> None:
    library = Library(root)
    opens.clear()
    entries, more = library.page("name9999", REAL // 2)
    assert [entry.name for entry in entries] == sorted(f"real{n}" for n in range(REAL))[: REAL // 2]
    assert more
    # And the next: a page says whether a sound one follows.
    assert opens["objects"] == REAL // 2 + 1


def test_memory_is_of_names_only(root: Path) -> None:
    """A name costs under 3 KB; ten thousand vectors' values would be hundreds of times that."""
    tracemalloc.start()
    try:
        library = Library(root)
        held, _ = tracemalloc.get_traced_memory()
        assert library.count() == COUNT
    finally:
        tracemalloc.stop()
    assert held < COUNT * 3000


def test_a_change_by_another_process_costs_one_read(
    root: Path, library: Library, opens: Counter[str]
) -> None:
    other = Library(root)
    other.add(vector_file(REAL), "late")
    opens.clear()
    try:
        assert library.count() == COUNT + 1
        assert opens == {"names": 1}
    finally:
        other.delete("late")
