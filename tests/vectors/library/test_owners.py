"""Who made a name: counted over two libraries on one directory, and what content tells whom."""

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.errors import VectorConflict, VectorInvalid, VectorNotFound
from steersman.vectors.file.format import read_vector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.library.ownership import Records
from steersman.vectors.library.record import Record
from tests.support.vectors.make import vector, vector_file


class Full(Exception):
    """There are as many as may be."""


def at_most(most: int, owner: str) -> Any:
    """An `admit` that lets `owner` have so many names."""

    def admit(name: str, records: Records) -> None:
        if name not in records and sum(r.owner == owner for r in records.values()) >= most:
            raise Full

    return admit


def records(root: Path) -> Mapping[str, Record]:
    return Library(root)._names.all()


@pytest.mark.parametrize("most", [0, 1, 5])
def test_two_libraries_under_threads_never_go_over(tmp_path: Path, most: int) -> None:
    libraries = [Library(tmp_path), Library(tmp_path)]
    gate = threading.Barrier(8)

    def add(n: int) -> bool:
        gate.wait()
        who = "alice" if n % 4 else "bob"
        try:
            libraries[n % 2].add(vector_file(n), f"v{n}", owner=who, admit=at_most(most, who))
        except Full:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        added = sum(pool.map(add, range(24)))
    owners = [record.owner for record in records(tmp_path).values()]
    assert owners.count("alice") == most
    assert owners.count("bob") == min(most, 6)
    assert added == len(owners)
    # Nothing lies about of those that were not let in.
    assert len(list((tmp_path / "objects").iterdir())) <= 24


def test_a_name_that_is_there_does_not_count_again(tmp_path: Path) -> None:
    library = Library(tmp_path)
    admit = at_most(1, "alice")
    library.add(vector_file(1), "v", owner="alice", admit=admit)
    assert library.add(vector_file(1), "v", owner="alice", admit=admit)[1] is False
    with pytest.raises(VectorConflict):
        library.add(vector_file(2), "v", owner="alice", admit=admit)
    with pytest.raises(Full):
        library.add(vector_file(2), "w", owner="alice", admit=admit)
    library.update("v", coefficient=2.0)
    library.delete("v")
    library.add(vector_file(2), "w", owner="alice", admit=admit)


def test_whoever_is_not_let_in_leaves_nothing(tmp_path: Path) -> None:
    library = Library(tmp_path)

    def never(name: str, records: Records) -> None:
        raise Full

    with pytest.raises(Full):
        library.add(vector_file(1), "v", admit=never)
    assert not list((tmp_path / "objects").iterdir())
    assert not list((tmp_path / "names").iterdir())


def test_an_owner_stays_through_every_change(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(vector_file(1), "v", owner="alice")
    library.add(vector_file(2), "w", owner="bob")
    other = read_vector(vector_file(2)).digest
    for change in ({"description": "d"}, {"coefficient": 3.0}, {"digest": other}):
        library.update("v", **change)
        assert records(tmp_path)["v"].owner == "alice"
    # Uploaded once more by another, it is still whose it was.
    library.add(vector_file(2), "v", owner="bob")
    assert records(tmp_path)["v"].owner == "alice"


@pytest.mark.parametrize("owner", [None, 5, ["alice"], {}, True])
def test_records_of_before_owners_and_odd_ones_are_read(tmp_path: Path, owner: Any) -> None:
    library = Library(tmp_path)
    library.add(vector_file(1), "v", owner="alice")
    path = tmp_path / "names" / "v.json"
    fields = json.loads(path.read_text())
    for key in ("owner", "foreign"):
        fields.pop(key, None)
    if owner is not None:
        fields["owner"] = owner
    path.write_text(json.dumps(fields))
    fresh = Library(tmp_path)
    assert fresh.resolve("v").name == "v"
    assert records(tmp_path)["v"].owner is None
    # It is nobody's, and so counts against nobody.
    fresh.add(vector_file(2), "w", owner="alice", admit=at_most(1, "alice"))


def test_records_of_a_newer_version_are_read(tmp_path: Path) -> None:
    Library(tmp_path).add(vector_file(1), "v", owner="alice")
    path = tmp_path / "names" / "v.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    assert Library(tmp_path).resolve("v").name == "v"
    assert records(tmp_path)["v"].owner == "alice"


@pytest.mark.parametrize("foreign", [None, 3, "x", ["junk"], [5], {"a": 1}, [["x"]]])
def test_damage_to_what_is_foreign_does_not_open_it(tmp_path: Path, foreign: Any) -> None:
    library = Library(tmp_path)
    library.add(vector_file(1), "v", owner="alice")
    path = tmp_path / "names" / "v.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "foreign": foreign}))
    fresh = Library(tmp_path)
    try:
        assert fresh.resolve("v").name == "v"
    except VectorNotFound:
        assert "v.json" in str(fresh.problems)


HERS: dict[str, Any] = {
    "name": "a-codename", "description": "hers alone", "method": "caa",
    "method_settings": {"secret": "codename"}, "licence": "codename only", "safe_range": (-1, 1),
    "created_at": "2026-01-01T00:00:00Z", "norms": {"resid_post.3": 1.25},
}  # fmt: skip


def mine(name: str) -> bool:
    return name.startswith("b-")


def tells(library: Library, name: str) -> bool:
    """Whether anything of `HERS` shows in what `name` is, or in its file."""
    from steersman.vectors.library.ownership import read_content

    entry = library.resolve(name)
    said = repr([entry.description, entry.method, dict(entry.method_settings), entry.licence,
                 entry.safe_range, dict(entry.norms), entry.made_at])  # fmt: skip
    file = write_vector(read_content(entry))
    return any(
        word in said or word.encode() in file
        for word in ("codename", "hers", "caa", "(-1", "1.25", "2026-01")
    )


def test_the_same_content_says_nothing_of_who_had_it_before(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(vector_file(1, **HERS), "a-1", owner="alice")
    library.add(vector_file(1), "b-1", owner="bob")
    assert tells(library, "a-1")
    assert not tells(library, "b-1")
    # Nor after she has taken hers away, nor in a version of before.
    library.delete("a-1")
    library.update("b-1", coefficient=4.0, visible=mine)
    first = library.resolve("b-1").versions[-1].removeprefix("sha256:")
    assert not tells(library, f"b-1@{first}")
    assert not tells(library, "b-1")


@pytest.mark.parametrize(
    "change", [{"coefficient": 2.5}, {"layers": (5,)}, {"positions": "prompt"}]
)
def test_nor_does_content_that_a_change_arrives_at(tmp_path: Path, change: Any) -> None:
    library = Library(tmp_path)
    library.add(write_vector(replace(vector(1), **HERS, **change)), "a-1", owner="alice")
    library.add(vector_file(1), "b-1", owner="bob")
    entry = library.update("b-1", **change, visible=mine)
    assert entry.digest == library.resolve("a-1").digest
    assert not tells(library, "b-1")


def test_nor_one_that_goes_from_name_to_name(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(vector_file(1, **HERS), "a-1", owner="alice")
    library.add(vector_file(1), "b-1", owner="bob")
    library.add(vector_file(2), "b-2", owner="bob")
    library.update("b-2", digest=library.resolve("b-1").digest, visible=mine)
    assert not tells(library, "b-2")


def test_only_content_of_visible_names_may_be_taken(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(vector_file(1), "a-1")
    library.add(vector_file(2), "b-1")
    hidden = library.resolve("a-1").digest
    for wanted in (hidden, hidden[7:19]):
        with pytest.raises(VectorNotFound) as refusal:
            library.update("b-1", digest=wanted, visible=mine)
        with pytest.raises(VectorNotFound) as absent:
            library.update("b-1", digest="0" * len(wanted[-64:]), visible=mine)
        assert refusal.value.code == absent.value.code
    assert library.update("b-1", digest=hidden).digest == hidden
    # It is in this name's history from now on, so it may be gone back to.
    library.update("b-1", digest=read_vector(vector_file(2)).digest, visible=mine)
    assert library.update("b-1", digest=hidden, visible=mine).digest == hidden
    with pytest.raises(VectorInvalid):
        library.update("b-1", digest="sha256:junk", visible=mine)


def test_pages_of_what_is_visible(tmp_path: Path) -> None:
    library = Library(tmp_path)
    for n, name in enumerate(["a-1", "b-1", "b-2", "c"]):
        library.add(write_vector(vector(n)), name)
    page = library.page(None, 1, mine)
    assert ([e.name for e in page[0]], page[1]) == (["b-1"], True)
    page = library.page("b-1", 1, mine)
    assert ([e.name for e in page[0]], page[1]) == (["b-2"], False)
    assert library.page("b-2", 5, mine) == ([], False)
