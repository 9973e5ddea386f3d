"""Many at once: threads, processes, and replicas that share a directory."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vectors.make import vector, vector_file
from tests.vectors.test_library_damage import assert_whole
from vectors.errors import VectorConflict, VectorNotFound
from vectors.library import Library


def test_64_threads_add_and_delete(tmp_path):
    library = Library(tmp_path)
    for n in range(0, 64, 2):
        library.add(vector_file(n), f"v{n}")

    def change(n):
        if n % 2:
            return library.add(vector_file(n), f"v{n}")[1]
        return library.delete(f"v{n}")

    with ThreadPoolExecutor(64) as pool:
        assert all(result in (True, None) for result in pool.map(change, range(64)))
    names = {entry.name for entry in assert_whole(tmp_path)}
    assert names == {f"v{n}" for n in range(1, 64, 2)} == {e.name for e in library.list()}


def test_64_threads_want_one_name(tmp_path):
    library = Library(tmp_path)

    def add(n):
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


def test_64_threads_update_one_name_and_no_update_is_lost(tmp_path):
    library = Library(tmp_path)
    library.add(vector_file(), "one")

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda n: library.update("one", coefficient=2.0 + n % 16), range(64)))
    assert len(library.resolve("one").versions) == 17
    assert_whole(tmp_path)


PROCESS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.vectors.make import vector_file
from vectors.errors import VectorConflict, VectorNotFound
from vectors.library import Library
root, own = Path(sys.argv[1]), int(sys.argv[2])
library = Library(root)
print("ready", flush=True)
sys.stdin.readline()
def change(n):
    library.add(vector_file(100 * own + n), f"p{own}-{n}")
    if n % 2:
        library.delete(f"p{own}-{n}")
    try:
        library.add(vector_file(own), "shared")
    except VectorConflict:
        library.update("shared", coefficient=2.0 + own)
    try:
        if n == 7:
            library.delete("shared")
    except VectorNotFound:
        pass
with ThreadPoolExecutor(16) as pool:
    failures = []
    for future in [pool.submit(change, n) for n in range(16)]:
        error = future.exception()
        if error is not None and not isinstance(error, VectorNotFound):
            failures.append(repr(error))
print(failures)
"""


def test_four_processes_of_sixteen_threads(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), str(own)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for own in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(process.communicate(timeout=120)[0])  # noqa: PERF401
    assert outputs == ["[]\n"] * 4
    names = {entry.name for entry in assert_whole(tmp_path)}
    assert names - {"shared"} == {f"p{own}-{n}" for own in range(4) for n in range(0, 16, 2)}


def test_replicas_see_each_others_changes_on_the_next_call(tmp_path):
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


def test_unchanged_records_are_not_read_again(tmp_path, monkeypatch):
    library = Library(tmp_path)
    library.add(vector_file(), "x")
    library.list()

    def fail(*_args):
        raise AssertionError("a file was read again")

    monkeypatch.setattr("pathlib.Path.read_bytes", fail)
    monkeypatch.setattr("vectors.objects.read_stored", fail)
    assert library.list() == [library.resolve("x")]
