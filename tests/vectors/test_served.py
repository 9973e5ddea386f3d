"""What the served model cannot be steered with is refused where it comes in, and listed as such
where another server has put it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.vectors.errors import VectorConflict, VectorInvalid
from steersman.vectors.file.format import BaseModel, SteeringVector, read_vector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.support.vectors.make import HIDDEN, vector_file

ROW = torch.arange(1.0, HIDDEN + 1)


def served(root: Path, **changes: Any) -> Library:
    """The library of a server whose model has 8 blocks, steered at resid_post and mlp_out."""
    model: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "num_layers": 8,
        "sites": ("resid_post", "mlp_out"),
        "max_steps": 4,
        "fingerprint": "f1",
    }
    return Library(root, **model | changes)


def file_of(tensors: dict[HookPoint, torch.Tensor], **fields: Any) -> bytes:
    return write_vector(SteeringVector(tensors, **fields))


def refused(library: Library, data: bytes) -> VectorInvalid:
    with pytest.raises(VectorInvalid) as caught:
        library.add(data, "refused")
    assert library.list() == []
    return caught.value


@pytest.mark.parametrize("site", ["attn_out", "resid_mid"])
def test_a_site_that_this_model_is_not_steered_at(tmp_path: Path, site: str) -> None:
    error = refused(
        served(tmp_path), file_of({HookPoint("resid_post", 1): ROW, HookPoint(site, 1): ROW})
    )
    assert (error.param, error.code) == (f"{site}.1", "site_not_supported")
    assert "resid_post, mlp_out" in error.message


def test_steps_beyond_the_limit(tmp_path: Path) -> None:
    library = served(tmp_path)
    error = refused(library, file_of({HookPoint("resid_post", 1): torch.ones(5, HIDDEN)}))
    assert (error.param, error.code) == ("resid_post.1", "too_many_steps")
    assert "--max-steps" in error.message
    assert library.add(file_of({HookPoint("resid_post", 1): torch.ones(4, HIDDEN)}), "four")[1]


def test_what_enters_a_block_is_what_left_the_one_before(tmp_path: Path) -> None:
    given = file_of(
        {HookPoint("resid_pre", 3): ROW, HookPoint("mlp_out", 2): 2 * ROW},
        layers=(2, 3),
        norms={"resid_pre.3": 1.5, "mlp_out.2": 3.0},
        coefficient=2.0,
        name="moved",
    )
    library = served(tmp_path)
    entry, new = library.add(given)
    assert new
    assert list(entry.tensors) == [HookPoint("mlp_out", 2), HookPoint("resid_post", 2)]
    assert (entry.layers, entry.coefficient) == ((2,), 2.0)
    assert entry.norms == {"resid_post.2": 1.5, "mlp_out.2": 3.0}
    kept = read_vector(library.content_path(entry))
    assert torch.equal(kept.tensors[HookPoint("resid_post", 2)], ROW)
    assert kept.digest == entry.digest
    # The same file again, and the same vector under its other name, are what is there.
    assert library.add(given) == (entry, False)
    canonical = {HookPoint("resid_post", 2): ROW, HookPoint("mlp_out", 2): 2 * ROW}
    assert library.add(file_of(canonical, coefficient=2.0), "moved") == (entry, False)


@pytest.mark.parametrize(
    ("tensors", "layers", "param", "code"),
    [
        ([HookPoint("resid_pre", 0)], (), "resid_pre.0", "layer_out_of_range"),
        ([HookPoint("resid_pre", 8)], (), "file", "layer_out_of_range"),
        (
            [HookPoint("resid_pre", 3), HookPoint("resid_post", 2)],
            (),
            "resid_pre.3",
            "duplicate_hook_point",
        ),
        ([HookPoint("resid_pre", 3), HookPoint("mlp_out", 2)], (3,), "layers", "invalid_vector"),
    ],
)
def test_what_cannot_be_moved(
    tmp_path: Path, tensors: list[Any], layers: tuple[int, ...], param: str, code: str
) -> None:
    error = refused(served(tmp_path), file_of(dict.fromkeys(tensors, ROW), layers=layers))
    assert (error.param, error.code) == (param, code)


def test_another_models_fingerprint_is_marked(tmp_path: Path) -> None:
    library = served(tmp_path)
    marks = {}
    bases = {
        "none": None,
        "nothing": BaseModel(id="m"),
        "same": BaseModel(fingerprint="f1", num_layers=8),
        "other": BaseModel(fingerprint="deadbeef"),
    }
    for n, (name, base) in enumerate(bases.items()):
        entry, _ = library.add(vector_file(n, base_model=base), name)
        marks[name] = entry.base_model_matches
        assert library.resolve(name).base_model_matches == entry.base_model_matches
        assert entry.misfit is None
    assert marks == {"none": None, "nothing": None, "same": True, "other": False}
    strict = served(tmp_path, require_fingerprint=True)
    assert {entry.name for entry in strict.list() if entry.misfit} == {"other"}
    with pytest.raises(VectorInvalid, match="--require-fingerprint") as caught:
        strict.check_fits(strict.resolve("other"), "steering.vectors[0].id")
    assert (caught.value.param, caught.value.code) == ("steering.vectors[0].id", "wrong_base_model")
    with pytest.raises(VectorInvalid) as caught:
        strict.add(vector_file(9, base_model=BaseModel(fingerprint="F1")), "again")
    assert (caught.value.param, caught.value.code) == ("base_model.fingerprint", "wrong_base_model")
    assert strict.add(vector_file(9, base_model=BaseModel(fingerprint="f1")), "again")[1]


def test_a_name_says_itself_what_it_was_made_on(tmp_path: Path) -> None:
    """The same numbers are in the library already, in a file that says another model."""
    library = served(tmp_path)
    library.add(vector_file(1, base_model=BaseModel(fingerprint="deadbeef")), "first")
    second, _ = library.add(vector_file(1, base_model=BaseModel(fingerprint="f1")), "second")
    assert second.base_model_matches is True
    assert library.resolve("first").base_model_matches is False
    assert served(tmp_path).resolve("second").base_model == BaseModel(fingerprint="f1")
    # And with other defaults, which are other content, it goes on saying so.
    assert library.update("second", coefficient=3.0).base_model_matches is True
    # Content of another name brings what that one's file says.
    first = library.resolve("first").digest
    assert library.update("second", digest=first).base_model_matches is False


def test_an_owner_says_what_the_own_file_said(tmp_path: Path) -> None:
    """What somebody else's file says stays hidden, what one's own said does not."""
    library = served(tmp_path)
    base = BaseModel(id="mine", fingerprint="f1")
    library.add(vector_file(1, base_model=BaseModel(id="theirs")), "first", owner="alice")
    entry, _ = library.add(vector_file(1, base_model=base), "second", owner="bob")
    assert (entry.base_model, entry.base_model_matches) == (base, True)
    entry, _ = library.add(vector_file(1), "third", owner="bob")
    assert entry.base_model is None


def test_a_digest_of_another_models_vector_is_refused(tmp_path: Path) -> None:
    theirs = served(tmp_path, hidden_size=2 * HIDDEN)
    digest = theirs.add(vector_file(1, hidden=2 * HIDDEN), "theirs")[0].digest
    ours = served(tmp_path)
    ours.add(vector_file(2), "ours")
    with pytest.raises(VectorInvalid) as caught:
        ours.update("ours", digest=digest)
    assert (caught.value.param, caught.value.code) == ("digest", "wrong_hidden_size")


class TestTwoModelsOnOneLibrary:
    """Each server lists what the other has put there, and leaves it alone."""

    def test_each_lists_all_and_says_what_fits(self, tmp_path: Path) -> None:
        wide, narrow = served(tmp_path, hidden_size=2 * HIDDEN, fingerprint="f2"), served(tmp_path)
        base = BaseModel(id="narrow", fingerprint="f1")
        narrow.add(vector_file(1, base_model=base), "a-narrow")
        wide.add(vector_file(1, hidden=2 * HIDDEN), "b-wide")
        narrow.add(vector_file(2), "c-narrow")
        seen = {
            entry.name: (entry.misfit is None, entry.base_model_matches) for entry in narrow.list()
        }
        assert seen == {"a-narrow": (True, True), "b-wide": (False, False),
                        "c-narrow": (True, None)}  # fmt: skip
        assert {entry.name for entry in wide.list() if entry.misfit is None} == {"b-wide"}
        misfit = narrow.resolve("b-wide").misfit or ""
        assert f"hidden size {2 * HIDDEN}" in misfit

    def test_pages_of_what_fits(self, tmp_path: Path) -> None:
        wide, narrow = served(tmp_path, hidden_size=2 * HIDDEN), served(tmp_path)
        for n in range(3):
            narrow.add(vector_file(n), f"n{n}")
            wide.add(vector_file(n, hidden=2 * HIDDEN), f"w{n}")
        first, more = narrow.page(None, 2, fits=True)
        assert ([entry.name for entry in first], more) == (["n0", "n1"], True)
        rest, more = narrow.page("n1", 2, fits=True)
        assert ([entry.name for entry in rest], more) == (["n2"], False)
        assert [e.name for e in narrow.page(None, 9, fits=False)[0]] == ["w0", "w1", "w2"]
        assert narrow.page("n1", 1, fits=True)[1] is False

    def test_one_name_on_both(self, tmp_path: Path) -> None:
        wide, narrow = served(tmp_path, hidden_size=2 * HIDDEN), served(tmp_path)
        wide.add(vector_file(1, hidden=2 * HIDDEN), "calm")
        with pytest.raises(VectorConflict) as caught:
            narrow.add(vector_file(1), "calm")
        assert "--library" in caught.value.message
        assert f"hidden size {2 * HIDDEN}" in caught.value.message
        narrow.add(vector_file(1), "calm-narrow")
        with pytest.raises(VectorConflict, match="PATCH the digest"):
            narrow.add(vector_file(2), "calm-narrow")

    def test_a_note_may_be_put_on_the_others(self, tmp_path: Path) -> None:
        served(tmp_path, hidden_size=2 * HIDDEN).add(vector_file(1, hidden=2 * HIDDEN), "wide")
        assert served(tmp_path).update("wide", description="of the other").description
        served(tmp_path).delete("wide")


def test_records_of_before_have_no_model_of_their_own(tmp_path: Path) -> None:
    library = served(tmp_path)
    library.add(vector_file(1, base_model=BaseModel(fingerprint="f1")), "old")
    path = tmp_path / "names" / "old.json"
    written = json.loads(path.read_text())
    del written["base_model"]
    path.write_text(json.dumps(written))
    assert served(tmp_path).resolve("old").base_model_matches is True
    written["base_model"] = {"fingerprint": 5}
    path.write_text(json.dumps(written))
    assert path in served(tmp_path).problems


class TestValues:
    """What no request could be steered with, or with nothing, is refused where it comes in."""

    @staticmethod
    def library(root: Path, most: float = 16376.0) -> Library:
        return served(root, most_added=most)

    @pytest.mark.parametrize("value", [0.0, 1e-40, -1e-45])
    def test_all_zeros(self, tmp_path: Path, value: float) -> None:
        library = self.library(tmp_path)
        row = torch.full((HIDDEN,), value)
        error = refused(
            library, file_of({HookPoint("resid_post", 1): row, HookPoint("mlp_out", 2): row[None]})
        )
        assert (error.param, error.code) == ("mlp_out.2", "all_zero")
        assert "coefficient 0" in error.message
        # Zeros beside something else are somebody's layout; what is used by default counts.
        mixed = {HookPoint("resid_post", 1): row, HookPoint("resid_post", 2): ROW}
        assert library.add(file_of(mixed), "mixed")[1]
        with pytest.raises(VectorInvalid) as caught:
            library.add(file_of(mixed, layers=(1,)), "other")
        assert caught.value.code == "all_zero"
        with pytest.raises(VectorInvalid) as caught:
            library.update("mixed", layers=(1,))
        assert (caught.value.param, caught.value.code) == ("layers", "all_zero")
        assert library.resolve("mixed").layers == (1, 2)

    def test_the_smallest_that_steers(self, tmp_path: Path) -> None:
        tiny = torch.zeros(HIDDEN)
        tiny[3] = torch.finfo(torch.float32).tiny
        assert self.library(tmp_path).add(file_of({HookPoint("resid_post", 1): tiny}), "tiny")[1]

    @pytest.mark.parametrize(
        ("scale", "coefficient", "param", "said"),
        [
            (1e36, 1.0, "resid_post.1", "divide"),
            (2000.0, 1.0, "resid_post.1", "divide"),
            (1.0, 3e38, "coefficient", "lower its coefficient, to 1.02e+03"),
            (1.0, -2000.0, "coefficient", "lower"),
        ],
    )
    def test_what_the_dtype_does_not_bear(
        self, tmp_path: Path, scale: float, coefficient: float, param: str, said: str
    ) -> None:
        library = self.library(tmp_path)
        data = file_of({HookPoint("resid_post", 1): scale * ROW}, coefficient=coefficient)
        error = refused(library, data)
        assert (error.param, error.code) == (param, "addition_too_large")
        assert said in error.message
        wide = served(tmp_path / "wide", most_added=2.0**50)
        assert wide.add(file_of({HookPoint("resid_post", 1): 2000 * ROW}), "wide")[1]

    def test_hook_points_are_summed_and_only_default_layers_count(self, tmp_path: Path) -> None:
        library = self.library(tmp_path)
        large = ROW * (16376.0 / HIDDEN)
        assert library.add(file_of({HookPoint("resid_post", 1): large}), "one")[1]
        two = {HookPoint("resid_post", 1): large, HookPoint("mlp_out", 2): ROW[None]}
        assert library.add(file_of(two, layers=(1,)), "two")[1]
        with pytest.raises(VectorInvalid) as caught:
            library.add(file_of(two), "both")
        assert caught.value.code == "addition_too_large"

    def test_a_patch_is_held_to_it(self, tmp_path: Path) -> None:
        library = self.library(tmp_path)
        large = ROW * (16376.0 / HIDDEN)
        strong, _ = served(tmp_path).add(
            file_of({HookPoint("resid_post", 1): large}, coefficient=9), "s"
        )
        library.add(
            file_of(
                {HookPoint("resid_post", 1): large, HookPoint("resid_post", 2): ROW}, layers=(1,)
            ),
            "v",
        )
        before = library.resolve("v")
        for change, param in (
            ({"coefficient": 3e38}, "coefficient"),
            ({"layers": (1, 2)}, "layers"),
            ({"digest": strong.digest}, "digest"),
        ):
            with pytest.raises(VectorInvalid) as caught:
                library.update("v", **change)
            assert (caught.value.param, caught.value.code) == (param, "addition_too_large")
            assert library.resolve("v") == before
        assert library.update("v", digest=strong.digest, coefficient=0.5).coefficient == 0.5
        # One that is in the library already may still be described.
        assert library.update("s", description="far too strong").description

    def test_a_library_without_a_model_leaves_values_alone(self, tmp_path: Path) -> None:
        library = served(tmp_path)
        assert library.add(file_of({HookPoint("resid_post", 1): torch.zeros(HIDDEN)}), "zero")[1]
        assert library.add(file_of({HookPoint("resid_post", 1): ROW * 1e36}), "huge")[1]
