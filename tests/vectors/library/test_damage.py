"""Broken files, full disks and dead processes."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.errors import LibraryError, VectorConflict, VectorNotFound
from steersman.vectors.file.format import read_vector
from steersman.vectors.library.entry import Entry
from steersman.vectors.library.library import Library
from tests.support.vectors.make import vector_file

BROKEN_RECORDS = [
    b"", b"{", b"[]", b'{"name": "a"}', b"[" * 100_000, b"\xff\xfe",
    b'{"name":"a","digests":["sha256:../../x"],"created_at":1,"updated_at":1,'
    b'"description":null,"safe_range":null}',
    b'{"name":"b","digests":["sha256:' + b"0" * 64 + b'"],"created_at":1,"updated_at":1,'
    b'"description":null,"safe_range":null}',
]  # fmt: skip


def assert_whole(root: Path) -> list[Entry]:
    """Every name leads to content that is what its digest says; nothing is half there."""
    library = Library(root)
    assert library.problems == {}
    entries = library.list()
    for entry in entries:
        assert read_vector(entry.path).digest == entry.digest
    return entries


@pytest.mark.parametrize("content", BROKEN_RECORDS)
def test_a_broken_record_is_reported_and_skipped(
    tmp_path: Path, content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    library = Library(tmp_path)
    library.add(vector_file(0), "a")
    kept, _ = library.add(vector_file(1), "kept")
    path = tmp_path / "names" / "a.json"
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with caplog.at_level(logging.WARNING):
        opened = Library(tmp_path)
    assert "a.json" in caplog.text
    for each in (opened, library):
        assert each.list() == [kept]
        assert list(each.problems) == [path]
        with pytest.raises(VectorNotFound):
            each.resolve("a")
    with pytest.raises(VectorConflict, match="delete"):
        opened.add(vector_file(2), "a")
    # What the broken record stood for is unknown, so nothing is thrown away.
    assert opened.collect(older_than_s=-5) == 0
    opened.delete("a")
    opened.add(vector_file(2), "a")
    assert opened.list()[0].name == "a"
    assert opened.problems == {}


@pytest.mark.parametrize("content", [None, b"", b"junk" * 20, "cut"])
def test_a_broken_object_is_reported_and_healed_by_uploading_again(
    tmp_path: Path, content: bytes | str | None
) -> None:
    entry, _ = Library(tmp_path).add(vector_file(0), "a")
    kept, _ = Library(tmp_path).add(vector_file(1), "kept")
    if content is None:
        entry.path.unlink()
    else:
        cut = entry.path.read_bytes()[:-1]
        entry.path.write_bytes(content if isinstance(content, bytes) else cut)
    library = Library(tmp_path)
    assert library.list() == [kept]
    assert list(library.problems) == [entry.path]
    with pytest.raises(VectorNotFound, match="upload it again"):
        library.resolve("a")
    with pytest.raises(VectorNotFound):
        library.update("a", coefficient=2)
    healed, created = library.add(vector_file(0), "a")
    assert (healed, created) == (entry, False)
    assert library.problems == {}
    assert_whole(tmp_path)


def test_a_broken_object_can_be_deleted(tmp_path: Path) -> None:
    library = Library(tmp_path)
    entry, _ = library.add(vector_file(0), "a")
    entry.path.write_bytes(b"")
    library = Library(tmp_path)
    library.delete("a")
    assert library.list() == []


def test_strange_files_stop_nothing(tmp_path: Path) -> None:
    library = Library(tmp_path)
    entry, _ = library.add(vector_file(), "a")
    (tmp_path / "names" / "a").write_text("x")
    (tmp_path / "names" / "..json").write_text("x")
    (tmp_path / "names" / "dir.json").mkdir()
    (tmp_path / "objects" / "README").write_text("x")
    assert [e.name for e in Library(tmp_path).list()] == ["a"]
    assert library.resolve("a") == entry


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Any, call: str
) -> None:
    library = Library(tmp_path)
    before, _ = library.add(vector_file(0), "a")

    def fail(*_args: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for change in (
            lambda: library.add(vector_file(1), "b"),
            lambda: library.add(vector_file(0), "b"),
            lambda: library.update("a", coefficient=3),
            lambda: library.update("a", description="new"),
            library.check_writable,
        ):
            with pytest.raises(LibraryError) as caught:
                change()
            assert (caught.value.code == "library_full") == (code != errno.EIO)
            assert str(tmp_path) not in caught.value.message
    assert library.list() == [before]
    assert list(tmp_path.glob("*/.tmp-*")) == []
    assert_whole(tmp_path)
    library.check_writable()


def test_every_write_is_on_disk_before_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    library = Library(tmp_path)

    def short(path: str) -> str:
        parts = Path(path).relative_to(tmp_path).parts
        return "/".join((parts[0], *(part[:4] for part in parts[1:])))

    def fsync(descriptor: int) -> None:
        calls.append(("fsync", short(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def rename(source: Any, target: Any, real: Any = os.replace) -> None:
        calls.append(("replace", short(source), short(target)))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    entry, _ = library.add(vector_file(), "name")
    content = entry.path.name[:4]
    assert calls == [
        ("fsync", "objects/.tmp"),
        ("replace", "objects/.tmp", f"objects/{content}"),
        ("fsync", "objects"),
        ("fsync", "names/.tmp"),
        ("replace", "names/.tmp", "names/name"),
        ("fsync", "names"),
    ]
    calls.clear()
    library.delete("name")
    assert calls == [("fsync", "names")]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    library = Library(tmp_path)
    library.add(vector_file(), "a")
    library.delete("a")
    assert library.list() == []


def test_a_lock_that_is_refused_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(LibraryError):
        library.add(vector_file(), "a")


def test_a_root_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LibraryError):
        Library(tmp_path / "file" / "library")


def test_rests_of_crashes_are_collected(tmp_path: Path) -> None:
    Library(tmp_path)
    for directory in ("names", "objects"):
        rest = tmp_path / directory / ".tmp-0123"
        rest.write_text("half")
        os.utime(rest, (1, 1))
    Library(tmp_path)
    assert list(tmp_path.glob("*/.tmp-*")) == []


WRITER = """
import os, random, signal, sys, time
from pathlib import Path
from tests.support.vectors.make import vector_file
from tests.vectors.library.test_damage import assert_whole
from steersman.vectors.errors import VectorConflict
from steersman.vectors.library.library import Library

def write(root, n):
    library = Library(root)
    while True:
        name = f"v{n % 5}"
        try:
            library.add(vector_file(n), name)
        except VectorConflict:
            library.update(name, coefficient=float(n))
            if n % 3 == 0:
                library.delete(name)
        n += 1

root, chance, seen = Path(sys.argv[1]), random.Random(5), 0
for n in range(25):
    writer = os.fork()
    if not writer:
        write(root, 1000 * n)
    time.sleep(chance.uniform(0.02, 0.3))
    os.kill(writer, signal.SIGKILL)
    assert os.waitpid(writer, 0)[1] == signal.SIGKILL
    seen += len(assert_whole(root))
print(seen)
"""


def test_a_process_killed_in_the_middle_of_writing_leaves_a_whole_library(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert int(result.stdout) >= 25
    assert assert_whole(tmp_path)


CRASH = """
import os, sys
from pathlib import Path
from tests.support.vectors.make import vector_file
from steersman.vectors.library.library import Library
library = Library(Path(sys.argv[1]))
library.add(vector_file(0), "old")
calls = ("open", "fsync", "replace", "unlink", "utime")
for step in range(40):
    if os.fork():
        os.wait()
        continue
    left = step
    def dying(real):
        def call(*args, **kwargs):
            global left
            if left == 0:
                os.kill(os.getpid(), 9)
            left -= 1
            return real(*args, **kwargs)
        return call
    for name in calls:
        setattr(os, name, dying(getattr(os, name)))
    library.add(vector_file(step + 1), f"new{step}")
    library.update("old", coefficient=float(step))
    library.delete(f"new{step}")
    os._exit(0)
"""


def test_death_before_any_single_system_call_leaves_a_whole_library(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], check=True)
    entries = assert_whole(tmp_path)
    names = {entry.name for entry in entries}
    assert "old" in names
    # Some died between add and delete, and some before the add.
    assert 1 < len(names) < 41
