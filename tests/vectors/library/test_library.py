"""The library: names, versions, and what is refused."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steersman.vectors.errors import VectorConflict, VectorInvalid, VectorNotFound
from steersman.vectors.file.format import BaseModel, read_tensors, read_vector, write_vector
from steersman.vectors.library.library import UNUSED_FOR_S, Library
from steersman.vectors.library.record import HISTORY
from steersman.vectors.tensors import HookPoint
from tests.support.vectors.make import HIDDEN, vector, vector_file
from tests.vectors.library.test_names import BAD_NAMES


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path, hidden_size=HIDDEN, num_layers=8)


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def test_what_is_added_is_found(library: Library) -> None:
    made = vector(
        description="d", method="caa", norms={"resid_post.3": 2.0}, licence="MIT",
        safe_range=(-1, 1), base_model=BaseModel("m", HIDDEN, 8), created_at="2025-01-01",
    )  # fmt: skip
    entry, created = library.add(write_vector(made), "cheerful")
    assert created
    assert entry == library.resolve("cheerful") == library.resolve(f"cheerful@{short(made.digest)}")
    assert (entry.name, entry.digest, entry.hidden_size) == ("cheerful", made.digest, HIDDEN)
    assert entry.tensors == {
        HookPoint("resid_post", 3): (HIDDEN,),
        HookPoint("resid_post", 5): (HIDDEN,),
    }
    assert (entry.description, entry.method, entry.licence) == ("d", "caa", "MIT")
    assert (entry.safe_range, entry.norms) == ((-1, 1), {"resid_post.3": 2.0})
    assert (entry.base_model, entry.made_at) == (made.base_model, "2025-01-01")
    assert (entry.coefficient, entry.layers, entry.positions) == (1.0, (3, 5), "generation")
    assert abs(entry.created_at - time.time()) < 5
    assert library.list() == [entry]
    assert library.count() == 1
    assert library.content_path(entry) == entry.path
    assert entry.path.read_bytes() == write_vector(made)
    assert entry.size == len(write_vector(made))


def test_a_file_can_be_added_by_path(library: Library, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(vector_file(name="own"))
    assert library.add(tmp_path / "upload")[0].name == "own"


def test_the_argument_goes_before_the_files_own_name(library: Library) -> None:
    assert library.add(vector_file(name="own"), "given")[0].name == "given"


def test_a_vector_needs_a_name(library: Library) -> None:
    with pytest.raises(VectorInvalid) as caught:
        library.add(vector_file())
    assert caught.value.param == "name"


def test_the_same_content_again_changes_nothing(library: Library) -> None:
    first, _ = library.add(vector_file(description="d"), "a")
    again, created = library.add(vector_file(description="other"), "a")
    assert not created
    assert again == first


def test_other_content_under_a_name_in_use_is_a_conflict(library: Library) -> None:
    first, _ = library.add(vector_file(0), "a")
    with pytest.raises(VectorConflict, match="PATCH") as caught:
        library.add(vector_file(1), "a")
    assert caught.value.param == "name"
    assert library.resolve("a") == first


def test_two_names_share_content_and_keep_their_own_descriptions(library: Library) -> None:
    a, _ = library.add(vector_file(description="of a", safe_range=(0, 1)), "a")
    b, _ = library.add(vector_file(description="of b"), "b")
    assert a.path == b.path
    assert (library.resolve("a").description, library.resolve("b").description) == ("of a", "of b")
    library.delete("a")
    assert library.collect(older_than_s=-5) == 0
    assert read_vector(library.resolve("b").path).digest == b.digest


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_everywhere(library: Library, name: Any) -> None:
    for call in (
        lambda: library.add(vector_file(), name),
        lambda: library.resolve(name),
        lambda: library.update(name, description="x"),
        lambda: library.delete(name),
    ):
        with pytest.raises(VectorInvalid):
            call()


@pytest.mark.parametrize(
    ("data", "param", "code"),
    [
        (vector_file(hidden=768), "file", "wrong_hidden_size"),
        (vector_file(layers=(8,)), "file", "layer_out_of_range"),
        (vector_file(base_model=BaseModel(num_layers=12)), "base_model.num_layers",
         "wrong_num_layers"),
    ],
)  # fmt: skip
def test_a_vector_for_another_model_is_refused(
    library: Library, data: Any, param: str, code: str
) -> None:
    with pytest.raises(VectorInvalid) as caught:
        library.add(data, "a")
    assert (caught.value.param, caught.value.code) == (param, code)
    assert library.list() == []


def test_unknown_names_and_versions(library: Library) -> None:
    library.add(vector_file(), "a")
    for wanted in ("b", "a@000000000000"):
        with pytest.raises(VectorNotFound):
            library.resolve(wanted)
    for call in (lambda: library.update("b", description="x"), lambda: library.delete("b")):
        with pytest.raises(VectorNotFound):
            call()


def test_list_and_pages_are_by_name(library: Library) -> None:
    for n, name in enumerate(["b", "C", "a", "a.b", "a-b"]):
        library.add(vector_file(n), name)
    names = [entry.name for entry in library.list()]
    assert names == ["C", "a", "a-b", "a.b", "b"]
    walked, after, more = [], None, True
    while more:
        page, more = library.page(after, 2)
        after = page[-1].name
        walked += [entry.name for entry in page]
    assert walked == names
    assert library.page("b", 2) == ([], False)


def test_describing_changes_no_digest(library: Library) -> None:
    before, _ = library.add(vector_file(description="old"), "a")
    after = library.update("a", description="new", safe_range=(-2, 2))
    assert (after.digest, after.description, after.safe_range) == (before.digest, "new", (-2, 2))
    assert library.update("a", description="").description == ""
    assert library.resolve("a").versions == (before.digest,)


def test_other_defaults_are_a_new_version(library: Library) -> None:
    before, _ = library.add(vector_file(description="d", method="caa"), "a")
    after = library.update("a", coefficient=2.5, layers=(5,), positions={"start": 0, "stop": 2})
    assert (
        after.digest
        == replace(vector(), coefficient=2.5, layers=(5,), positions={"start": 0, "stop": 2}).digest
    )
    assert (after.coefficient, after.layers, after.positions) == (
        2.5,
        (5,),
        {"start": 0, "stop": 2},
    )
    assert (after.description, after.method) == ("d", "caa")
    assert after.versions == (after.digest, before.digest)
    old = library.resolve(f"a@{short(before.digest)}")
    assert (old.digest, old.coefficient, old.layers) == (before.digest, 1.0, (3, 5))
    assert read_vector(after.path).digest == after.digest


def test_new_content_says_what_the_name_says(library: Library) -> None:
    before, _ = library.add(vector_file(description="old", safe_range=(-6, 6)), "a")
    library.update("a", description="new")
    after = library.update("a", coefficient=2.0, layers=(5,), safe_range=(-2, 2))
    made = read_vector(after.path)
    assert (made.description, made.safe_range) == ("new", (-2, 2))
    # A digest's file does not change, whatever its names say.
    old = read_vector(before.path)
    assert (old.description, old.safe_range) == ("old", (-6, 6))


def test_content_of_another_name_changes_nothing_that_a_name_says(library: Library) -> None:
    for name, safe_range in (("a", (-2, 2)), ("b", (-6, 6))):
        library.add(vector_file(description=f"of {name}"), name)
        library.update(name, safe_range=safe_range)
    a, b = (library.update(name, coefficient=2.0) for name in ("a", "b"))
    assert a.digest == b.digest
    assert (a.description, a.safe_range) == ("of a", (-2, 2))
    assert (b.description, b.safe_range) == ("of b", (-6, 6))
    library.add(vector_file(description="of c", safe_range=(0, 1)), "c")
    c = library.update("c", coefficient=2.0)
    assert (c.digest, c.description, c.safe_range) == (a.digest, "of c", (0, 1))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"coefficient": float("nan")}, "coefficient"),
        ({"coefficient": 1e39}, "coefficient"),
        ({"layers": ()}, "layers"),
        ({"layers": (4,)}, "layers"),
        ({"positions": "nowhere"}, "positions"),
        ({"safe_range": (1, 0)}, "safe_range"),
        ({"description": "x" * 5000}, "description"),
        ({"digest": "sha256:12"}, "digest"),
        ({"digest": "../../etc/passwd"}, "digest"),
        ({"digest": "*" * 12}, "digest"),
    ],
)
def test_bad_updates_change_nothing(library: Library, change: dict[str, Any], param: str) -> None:
    before, _ = library.add(vector_file(), "a")
    with pytest.raises(VectorInvalid) as caught:
        library.update("a", **change)
    assert caught.value.param == param
    assert library.resolve("a") == before


def test_a_name_swaps_to_other_content_and_back(library: Library) -> None:
    a, _ = library.add(vector_file(0, safe_range=(0, 1)), "a")
    b, _ = library.add(vector_file(1), "b")
    library.update("a", safe_range=(0, 3))
    swapped = library.update("a", digest=b.digest)
    assert (swapped.digest, swapped.safe_range) == (b.digest, None)
    assert swapped.versions == (b.digest, a.digest)
    back = library.update("a", digest=short(a.digest), description="back")
    assert (back.digest, back.safe_range, back.description) == (a.digest, (0, 1), "back")
    assert back.versions == (a.digest, b.digest)
    with pytest.raises(VectorNotFound):
        library.update("a", digest="0" * 64)


def test_a_version_cannot_be_changed_or_deleted(library: Library) -> None:
    entry, _ = library.add(vector_file(), "a")
    for call in (library.update, library.delete):
        with pytest.raises(VectorInvalid, match="leave out '@'"):
            call(f"a@{short(entry.digest)}")


def test_history_has_an_end(library: Library) -> None:
    first, _ = library.add(vector_file(), "a")
    for n in range(HISTORY + 3):
        entry = library.update("a", coefficient=2.0 + n)
    assert len(entry.versions) == HISTORY
    with pytest.raises(VectorNotFound):
        library.resolve(f"a@{short(first.digest)}")
    assert first.path.exists()
    assert library.collect(older_than_s=-5) == 4
    assert not first.path.exists()


def test_deleting_leaves_the_content_for_requests_in_flight(
    library: Library, tmp_path: Path
) -> None:
    entry, _ = library.add(vector_file(), "a")
    os.utime(entry.path, (1, 1))
    library.delete("a")
    with pytest.raises(VectorNotFound):
        library.resolve("a")
    assert library.list() == []
    # It had been there for long, but in use until now.
    Library(tmp_path)
    assert read_tensors(entry.path, [HookPoint("resid_post", 3)])
    os.utime(entry.path, (1, 1))
    Library(tmp_path)
    assert not entry.path.exists()


def test_unused_content_is_collected_while_the_server_runs(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, _ = library.add(vector_file(0), "a")
    library.add(vector_file(1), "b")
    library.delete("a")
    os.utime(entry.path, (1, 1))
    library.delete("b")
    assert entry.path.exists()
    later = time.monotonic() + UNUSED_FOR_S
    monkeypatch.setattr("steersman.vectors.library.library.time.monotonic", lambda: later)
    library.add(vector_file(2), "c")
    library.delete("c")
    assert not entry.path.exists()


def test_deleting_and_adding_again(library: Library) -> None:
    library.add(vector_file(0), "a")
    library.delete("a")
    assert library.add(vector_file(1), "a")[1]
    assert library.resolve("a").versions == (vector(1).digest,)


def test_the_files_on_disk_are_as_documented(library: Library, tmp_path: Path) -> None:
    library.add(vector_file(), "a")
    digest = vector().digest
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "lock", "names/a.json", f"objects/{digest.removeprefix('sha256:')}.safetensors",
    ]  # fmt: skip
    assert json.loads((tmp_path / "names" / "a.json").read_text())["digests"] == [digest]
