"""`steersman vectors` and `jobs` against our routes and a library, over HTTP, with a key."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fastapi import FastAPI

from steersman.client.http import Client
from steersman.server import error_response
from steersman.server.library.routes import build_router
from steersman.vectors.file.format import BaseModel, SteeringVector, read_vector, write_vector
from steersman.vectors.formats import load
from steersman.vectors.library.library import Library
from tests.client.cli.conftest import HIDDEN, KEY, Done, serving
from tests.support.vectors.make import vector, vector_file

FIXTURES = Path(__file__).parents[2] / "vectors" / "formats" / "fixtures"
Run = Callable[..., Done]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(vector_file(hidden=HIDDEN, coefficient=2.5))
    return path


def test_list(keyed: Run) -> None:
    done = keyed("vectors", "list")
    assert done.status == 0
    assert "glad" in done.out
    # Text of others is shown, not obeyed.
    assert "[bold] glad" in done.out
    assert [v["id"] for v in keyed("vectors", "list", "--json").json["data"]] == ["calm", "glad"]
    one = keyed("--json", "vectors", "list", "--limit", "1").json
    assert [v["id"] for v in one["data"]] == ["calm"]


def test_show(keyed: Run) -> None:
    done = keyed("vectors", "show", "glad")
    assert done.status == 0
    told = keyed("vectors", "show", "glad", "--json").json
    assert told["id"] == "glad"
    for part in (told["digest"], "-2 to 2", "generation"):
        assert part in done.out


def test_upload_and_delete(keyed: Run, file: Path) -> None:
    told = keyed("vectors", "upload", str(file), "--name", "mine", "--json").json
    assert (told["id"], told["coefficient"]) == ("mine", 2.5)
    assert "mine is on the server" in keyed("vectors", "upload", str(file), "--name", "mine").out
    assert keyed("vectors", "delete", "mine").out == "mine is deleted\n"
    done = keyed("vectors", "delete", "mine", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "vector_not_found")


def test_a_pickle_never_leaves_this_machine(keyed: Run, tmp_path: Path) -> None:
    torch.save(torch.ones(4), tmp_path / "v.pt")
    done = keyed("vectors", "upload", str(tmp_path / "v.pt"))
    assert done.status == 2
    assert "vectors import" in done.err


def test_export(keyed: Run, shelf: str, tmp_path: Path) -> None:
    whole, gguf = tmp_path / "glad.safetensors", tmp_path / "glad.gguf"
    told = keyed("vectors", "show", "glad", "--json").json
    args = ["vectors", "export", "glad", "--json", "--format"]
    done = keyed(*args, "safetensors", "--out", str(whole)).json
    assert done["digest"] == told["digest"] == read_vector(whole).digest
    done = keyed(*args, "gguf", "--out", str(gguf)).json
    assert load(gguf).digest == told["digest"]
    assert done["layers"] == told["layers"]
    assert done["command"].endswith(str(gguf))
    again = keyed(*args, "gguf", "--out", str(gguf))
    assert (again.status, "--force" in again.err) == (2, True)
    layer = str(told["layers"][0])
    done = keyed(*args, "gguf", "--out", str(gguf), "--force", "--layers", layer).json
    assert done["layers"] == told["layers"][:1]
    assert keyed(*args, "safetensors", "--layers", layer).status == 2


def test_export_says_what_the_name_says(keyed: Run, shelf: str, tmp_path: Path) -> None:
    """The safe range that a sweep wrote, though content stays as it came under its digest."""
    file = tmp_path / "mine.safetensors"
    file.write_bytes(vector_file(hidden=HIDDEN, coefficient=1.5, safe_range=(-6, 6)))
    keyed("vectors", "upload", str(file), "--name", "swept")
    with Client(shelf, KEY) as client:
        client.patch("/v1/steering/vectors/swept", {"safe_range": [-2, 2], "description": "glad"})
    for form, read in (("safetensors", read_vector), ("gguf", load)):
        target = tmp_path / f"swept.{form}"
        done = keyed("vectors", "export", "swept", "--format", form, "--out", str(target))
        assert done.status == 0, done.err
        found = read(target)
        assert (found.safe_range, found.description) == ((-2, 2), "glad")
    keyed("vectors", "delete", "swept")


def test_rescaled_vectors_have_one_length(keyed: Run, tmp_path: Path) -> None:
    names = ["long", "short"]
    for seed, name in enumerate(names):
        tensors = {
            key: t * (5 - 4 * seed) for key, t in vector(seed, hidden=HIDDEN).tensors.items()
        }
        made = SteeringVector(tensors, coefficient=3.0, safe_range=(0, 6), method="caa")
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(write_vector(made))
        keyed("vectors", "upload", str(file), "--name", name)
    done = keyed("vectors", "rescale", *names, "--json").json["data"]
    assert [v["id"] for v in done] == ["long-rescaled", "short-rescaled"]
    assert done[0]["norms"] == pytest.approx(done[1]["norms"])
    for told, name in zip(done, names, strict=True):
        assert (told["coefficient"], told["safe_range"], told["method"]) == (1.0, None, "caa")
        assert told["method_settings"]["rescaled"][0].startswith("long@")
        before, target = read_vector(tmp_path / f"{name}.safetensors"), tmp_path / "after"
        keyed("vectors", "export", told["id"], "--format", "safetensors", "--out", str(target))
        after = read_vector(target)
        target.unlink()
        for key, tensor in before.tensors.items():
            cosine = torch.cosine_similarity(tensor, after.tensors[key], dim=0)
            assert float(cosine) == pytest.approx(1.0)
    for name in names:
        keyed("vectors", "delete", name)
        keyed("vectors", "delete", f"{name}-rescaled")


def test_what_cannot_be_rescaled(keyed: Run, file: Path, tmp_path: Path) -> None:
    assert keyed("vectors", "rescale", "glad").status == 2
    assert keyed("vectors", "rescale", "glad", "glad").status == 2
    file.write_bytes(vector_file(hidden=HIDDEN, layers=(3,)))
    keyed("vectors", "upload", str(file), "--name", "other")
    done = keyed("vectors", "rescale", "glad", "other")
    assert (done.status, "same sites and layers" in done.err) == (2, True)
    keyed("vectors", "delete", "other")


def test_export_folds_the_coefficient_in(keyed: Run, file: Path, tmp_path: Path) -> None:
    keyed("vectors", "upload", str(file), "--name", "strong")
    gguf = tmp_path / "strong.gguf"
    args = ["vectors", "export", "strong", "--format", "gguf", "--out", str(gguf)]
    assert keyed(*args, "--fold-coefficient", "--json").json["strength"] == 1.0
    folded, plain = load(gguf), read_vector(file)
    for key, tensor in plain.tensors.items():
        assert torch.equal(folded.tensors[key], tensor * 2.5)
    keyed("vectors", "delete", "strong")


def test_import_uploads_what_the_importer_made(keyed: Run) -> None:
    file = FIXTURES / "repeng.gguf"
    done = keyed("vectors", "import", str(file), "--name", "foreign")
    assert done.status == 0, done.err
    for said in (
        "a tool that it does not name",
        "direction.1 -> resid_post.1",
        "all 3 layers",
        "--layer",
    ):
        assert said in done.err
    told = keyed("vectors", "show", "foreign", "--json").json
    assert told["digest"] == load(file).digest
    assert told["positions"] == "all"
    keyed("vectors", "delete", "foreign")


def test_import_to_a_file(keyed: Run, tmp_path: Path) -> None:
    file, target = FIXTURES / "activation-steering.svec", tmp_path / "v.safetensors"
    args = ["vectors", "import", str(file), "--json", "--out", str(target)]
    done = keyed(*args).json
    assert done["imported"]["layer_shift"] == -1
    assert done["digest"] == read_vector(target).digest == load(file).digest
    assert keyed(*args).status == 2
    extracted = keyed(*args, "--force", "--as-extracted").json
    assert extracted["imported"]["layer_shift"] == 0
    assert read_vector(target).digest == load(file, as_extracted=True).digest


def test_import_takes_the_layers_of_the_file(keyed: Run, tmp_path: Path) -> None:
    target = tmp_path / "v.safetensors"
    args = ["vectors", "import", str(FIXTURES / "repeng.gguf"), "--out", str(target)]
    done = keyed(*args, "--layer", "2", "--json")
    assert done.json["layers"] == [2]
    assert "at once" not in done.err


def test_a_file_that_is_no_vector(keyed: Run, tmp_path: Path) -> None:
    (tmp_path / "v.pt").write_bytes(b"PK\x03\x04 not really")
    done = keyed("vectors", "import", str(tmp_path / "v.pt"), "--layer", "3", "--json")
    assert done.status == 1
    assert done.json["error"]["code"] == "pickle"
    assert "Traceback" not in done.err
    assert keyed("vectors", "import", str(tmp_path / "none.pt")).status == 2


def test_jobs_of_nobody(keyed: Run) -> None:
    assert keyed("jobs", "list", "--json").json == {"object": "list", "data": []}
    assert "no jobs" in keyed("jobs", "list").err
    for command in ("show", "cancel"):
        done = keyed("jobs", command, "job-0123456789abcdef", "--json")
        assert (done.status, done.json["error"]["code"]) == (1, "job_not_found")


def test_the_key_counts(shelf: str, steersman: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEERSMAN_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    here = ["--server", f"{shelf}/v1/"]
    for key in ([], ["--api-key", "wrong"]):
        done = steersman("vectors", "list", *here, *key)
        assert done.status == 1
        assert "401" in done.err
        assert "STEERSMAN_API_KEY" in done.err
        assert not done.out
    assert steersman(*here, "--api-key", KEY, "vectors", "list").status == 0
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert steersman("vectors", "list", *here).status == 0
    monkeypatch.setenv("STEERSMAN_API_KEY", "wrong")
    assert steersman("vectors", "list", *here).status == 1


def test_what_the_server_says_is_what_is_shown(keyed: Run) -> None:
    done = keyed("vectors", "show", "nothere")
    assert done.status == 1
    for said in ("there is no vector 'nothere'", "param: id", "remedy: `steersman vectors list`"):
        assert said in done.err
    for name in ("..", "a/b", "a?b#c", "é"):
        done = keyed("vectors", "show", name, "--json")
        assert done.status == 1
        assert done.json["error"]["code"] in ("invalid_name", "vector_not_found")


def test_nobody_there(steersman: Run) -> None:
    for server in ("http://127.0.0.1:9", "127.0.0.1:9"):
        done = steersman("vectors", "list", "--server", server, "--json")
        assert done.status == 3
        assert done.json["error"]["code"] == "unreachable"
        assert "steersman serve" in done.err
    assert steersman("vectors", "list", "--server", "ftp://somewhere").status == 2


def test_another_server(shelf: str, keyed: Run) -> None:
    done = keyed("vectors", "list", "--server", f"{shelf}/elsewhere")
    assert done.status == 1
    assert "Steersman server" in done.err


def test_set(keyed: Run, file: Path) -> None:
    keyed("vectors", "upload", str(file), "--name", "changed")
    before = keyed("vectors", "show", "changed", "--json").json
    layer = before["layers"][0]
    done = keyed("vectors", "set", "changed", "--coefficient", "-0.5", "--layers", str(layer),
                 "--positions", "-3:2", "--description", "new", "--safe-range", "-1", "1.5",
                 "--json").json  # fmt: skip
    assert (done["coefficient"], done["layers"], done["description"]) == (-0.5, [layer], "new")
    assert done["positions"] == {"start": -3, "stop": 2}
    assert done["safe_range"] == [-1, 1.5]
    assert done["digest"] != before["digest"]
    version = before["digest"].removeprefix("sha256:")[:12]
    back = keyed("vectors", "set", "changed", "--version", version, "--json").json
    assert (back["digest"], back["coefficient"]) == (before["digest"], 2.5)
    assert "changed: coefficient 3" in keyed("vectors", "set", "changed", "--coefficient", "3").out
    for wrong in (
        [], ["--positions", "some"], ["--version", "beef"], ["--layers", "a"],
        ["--coefficient", "x"],
    ):  # fmt: skip
        assert keyed("vectors", "set", "changed", *wrong).status == 2
    keyed("vectors", "delete", "changed")
    assert keyed("vectors", "set", "changed", "--coefficient", "3").status == 1


def test_rename(keyed: Run, file: Path) -> None:
    keyed("vectors", "upload", str(file), "--name", "before")
    keyed("vectors", "set", "before", "--safe-range", "-1", "1", "--description", "mine")
    old = keyed("vectors", "show", "before", "--json").json
    done = keyed("vectors", "rename", "before", "glad", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "vector_exists")
    assert keyed("vectors", "rename", "before", "before").status == 2
    assert keyed("vectors", "rename", "before", "after").status == 0
    new = keyed("vectors", "show", "after", "--json").json
    for field in ("digest", "description", "safe_range", "coefficient", "layers"):
        assert new[field] == old[field]
    assert keyed("vectors", "show", "before").status == 1
    keyed("vectors", "delete", "after")


def test_compare(keyed: Run, tmp_path: Path) -> None:
    base = vector(3, hidden=HIDDEN)
    turned = SteeringVector({key: -2 * t for key, t in base.tensors.items()}, coefficient=0.5)
    for name, made in (("one", base), ("two", turned)):
        (tmp_path / name).write_bytes(write_vector(made))
        keyed("vectors", "upload", str(tmp_path / name), "--name", name)
    done = keyed("vectors", "compare", "one", "two", "glad", "--json").json
    assert [v["id"] for v in done["vectors"]] == ["one", "two", "glad"]
    assert [(p["first"], p["second"]) for p in done["pairs"]] == [
        ("one", "two"), ("one", "glad"), ("two", "glad"),
    ]  # fmt: skip
    assert set(done["pairs"][0]["cosine"].values()) == {-1.0}
    shown = keyed("vectors", "compare", "one", "two")
    for part in ("one, two", "-1", "length added", "0.5"):
        assert part in shown.out
    for wrong in (["one"], ["one", "one"]):
        assert keyed("vectors", "compare", *wrong).status == 2
    for name in ("one", "two"):
        keyed("vectors", "delete", name)


def test_a_name_that_is_taken(keyed: Run, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(vector_file(hidden=HIDDEN, coefficient=-1.0, description="the other"))
    keyed("vectors", "upload", str(file), "--name", "taken")
    done = keyed("vectors", "upload", str(other), "--name", "taken")
    assert done.status == 1
    assert "--replace" in done.err
    for word in ("PATCH", "POST", "/v1/"):
        assert word not in done.err
    before = {v["id"] for v in keyed("vectors", "list", "--json").json["data"]}
    told = keyed("vectors", "upload", str(other), "--name", "taken", "--replace", "--json").json
    assert (told["id"], told["coefficient"], told["description"]) == ("taken", -1.0, "the other")
    assert len(told["versions"]) == 2
    assert {v["id"] for v in keyed("vectors", "list", "--json").json["data"]} == before
    # As a new name, too, and again with nothing to replace.
    for name in ("taken", "fresh"):
        assert keyed("vectors", "upload", str(other), "--name", name, "--replace").status == 0
        keyed("vectors", "delete", name)


def test_errors_speak_of_commands(keyed: Run) -> None:
    done = keyed("vectors", "show", "nothere")
    assert "GET" not in done.err
    assert "`steersman vectors list`" in done.err


def test_a_vector_of_another_model_is_shown_as_such(tmp_path: Path, steersman: Run) -> None:
    """Of a library that several models share."""
    Library(tmp_path).add(vector_file(hidden=2 * HIDDEN), "wide")
    library = Library(tmp_path, hidden_size=HIDDEN, num_layers=8, fingerprint="f1")
    base = BaseModel(id="theirs", fingerprint="deadbeef")
    library.add(vector_file(hidden=HIDDEN, base_model=base, description="told"), "marked")
    app = FastAPI()
    error_response.install(app)
    app.include_router(build_router())
    app.state.steersman = SimpleNamespace(library_for=lambda _: library)
    with serving(app) as url:
        listed = steersman("vectors", "list", "--server", url).out
        wide = " ".join(steersman("vectors", "show", "wide", "--server", url).out.split())
        marked = " ".join(steersman("vectors", "show", "marked", "--server", url).out.split())
    assert "not for the served model" in " ".join(listed.split())
    assert "told" in listed
    assert f"the vector has hidden size {2 * HIDDEN}" in wide
    assert "theirs, not the served one" in marked
    assert "does not fit" not in marked


def test_import_asks_the_server_how_deep_and_how_strong(keyed: Run, tmp_path: Path) -> None:
    file = tmp_path / "deep.npy"
    import numpy as np

    np.save(file, np.eye(8, HIDDEN, dtype=np.float32))
    done = keyed("vectors", "import", str(file), "--name", "deep", "--json")
    assert done.status == 0, done.err
    assert done.json["relative_dose"] == pytest.approx(0.8)
    assert "its directions have length 1" in done.err
    keyed("vectors", "delete", "deep")
    np.save(file, np.eye(1, HIDDEN, dtype=np.float32) / 5)
    done = keyed("vectors", "import", str(file), "--layer", "3", "--name", "weak")
    assert "far too weak" in done.err
    assert "coefficient 15 gives 0.3" in done.err
    keyed("vectors", "delete", "weak")
    torch.save({n: torch.ones(HIDDEN) for n in (7, 8)}, tmp_path / "past.pt")
    past = ("vectors", "import", str(tmp_path / "past.pt"), "--name", "past")
    asked = keyed(*past)
    assert asked.status == 1
    assert "--layers-are hidden-states" in asked.err
    done = keyed(*past, "--layers-are", "blocks")
    assert "left out, being past the model's last block: 8" in done.err
    keyed("vectors", "delete", "past")
    done = keyed(*past, "--layers-are", "hidden-states", "--json")
    assert done.json["layers"] == [6, 7]
    keyed("vectors", "delete", "past")
    assert keyed(*past, "--layers-are", "tokens").status == 2
    offline = keyed(
        "vectors", "import", str(tmp_path / "past.pt"), "--out", str(tmp_path / "v.safetensors")
    )
    assert "relative dose: not known, since no server was asked" in offline.err


def test_without_gguf_nothing_is_begun(
    keyed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    target = tmp_path / "x.gguf"
    done = keyed("vectors", "export", "no-such", "--format", "gguf", "--out", str(target), "--json")
    assert done.json["error"]["code"] == "package_missing"
    assert "pip install gguf" in done.err
    assert "Traceback" not in done.err
