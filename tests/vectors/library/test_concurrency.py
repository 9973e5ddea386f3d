"""Many at once: threads, processes, and replicas that share a directory."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.errors import VectorConflict, VectorNotFound
from steersman.vectors.library.library import Library
from tests.support.vectors.make import vector, vector_file
from tests.vectors.library.test_damage import assert_whole


def test_64_threads_add_and_delete(tmp_path: Path) -> None:
    library = Library(tmp_path)
    for n in range(0, 64, 2):
        library.add(vector_file(n), f"v{n}")

    def change(n: int) -> bool | None:
        if n % 2:
            return library.add(vector_file(n), f"v{n}")[1]
        library.delete(f"v{n}")
        return None

    with ThreadPoolExecutor(64) as pool:
        assert all(result in (True, None) for result in pool.map(change, range(64)))
    names = {entry.name for entry in assert_whole(tmp_path)}
    assert names == {f"v{n}" for n in range(1, 64, 2)} == {e.name for e in library.list()}


def test_64_threads_want_one_name(tmp_path: Path) -> None:
    library = Library(tmp_path)

    def add(n: int) -> bool | None:
        try:
            return library.add(vector_file(n % 4), "one")[1]
        except VectorConflict:
            return None

    with ThreadPoolExecutor(64) as pool:
        results = list(pool.map(add, range(64)))
    assert results.count(True) == 1
    assert results.count(False) == 15
    assert results.count(None) == 48
    (entry,) = assert_whole(tmp_path)
    assert entry.digest in {vector(n).digest for n in range(4)}


def test_64_threads_update_one_name_and_no_update_is_lost(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(vector_file(), "one")

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda n: library.update("one", coefficient=2.0 + n % 16), range(64)))
    assert len(library.resolve("one").versions) == 17
    assert_whole(tmp_path)


PROCESSES = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.support.vectors.make import vector_file
from steersman.vectors.errors import VectorConflict, VectorNotFound
from steersman.vectors.library.library import Library

def change(library, own, n):
    library.add(vector_file(100 * own + n), f"p{own}-{n}")
    if n % 2:
        library.delete(f"p{own}-{n}")
    try:
        try:
            library.add(vector_file(own), "shared")
        except VectorConflict:
            library.update("shared", coefficient=2.0 + own)
        if n == 7:
            library.delete("shared")
    except VectorNotFound:
        pass  # Another process deleted it first.

children = []
for own in range(4):
    child = os.fork()
    if not child:
        library = Library(Path(sys.argv[1]))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: change(library, own, n), range(16)))
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_four_processes_of_sixteen_threads(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PROCESSES, str(tmp_path)], check=True, timeout=120)
    names = {entry.name for entry in assert_whole(tmp_path)}
    assert names - {"shared"} == {f"p{own}-{n}" for own in range(4) for n in range(0, 16, 2)}


UPDATES = """
import os, sys
from pathlib import Path
from tests.support.vectors.make import vector_file
from steersman.vectors.library.library import Library

Library(Path(sys.argv[1])).add(vector_file(), "one")
children = []
for own in range(4):
    child = os.fork()
    if not child:
        library = Library(Path(sys.argv[1]))
        for n in range(6):
            library.update("one", coefficient=10.0 * own + n + 2)
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_four_processes_update_one_name_and_no_update_is_lost(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", UPDATES, str(tmp_path)], check=True, timeout=120)
    (entry,) = assert_whole(tmp_path)
    assert len(entry.versions) == 25


def test_replicas_see_each_others_changes_on_the_next_call(tmp_path: Path) -> None:
    a, b = Library(tmp_path), Library(tmp_path)
    for n in range(50):
        entry, _ = a.add(vector_file(n), "x")
        assert b.resolve("x") == entry
        assert b.list() == [entry]
        changed = b.update("x", coefficient=3.0)
        assert a.resolve("x") == changed
        assert a.list() == [changed]
        described = a.update("x", description=str(n))
        assert b.resolve("x") == described
        assert b.page(None, 5) == ([described], False)
        b.delete("x")
        with pytest.raises(VectorNotFound):
            a.resolve("x")
        assert a.list() == []
        assert a.count() == 0


def test_unchanged_records_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path)
    library.add(vector_file(), "x")
    library.list()

    def fail(*_args: Any) -> None:
        raise AssertionError("a file was read again")

    monkeypatch.setattr("pathlib.Path.read_bytes", fail)
    monkeypatch.setattr("steersman.vectors.library.objects.read_stored", fail)
    assert library.list() == [library.resolve("x")]
