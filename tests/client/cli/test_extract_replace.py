"""`vectors extract --replace`: the old vector stands until the new one is made, then it is the new
one's name. The server here makes a vector at once, in place of an engine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request

from steersman.server import error_response
from steersman.server.library.routes import build_router
from steersman.vectors.digest import short
from steersman.vectors.errors import VectorConflict, VectorNotFound
from steersman.vectors.library.library import Library
from tests.client.cli.conftest import HIDDEN, Done, serving
from tests.support.server.make import presets_of
from tests.support.vectors.make import vector_file

Run = Callable[..., Done]


class Bench:
    """Makes vectors under the names it is asked for, or fails."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.fails = False
        self.seed = 0
        self.asked: list[str] = []

    def extract(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["name"]
        styles = body.get("styles")
        names = [f"{name}-{style}" for style in styles] if styles else [name]
        for one in names:
            try:
                self.library.resolve(one)
            except VectorNotFound:
                continue
            raise VectorConflict(f"{one!r} is in use", param="name")
        self.asked.append(name)
        for one in () if self.fails else names:
            self.seed += 1
            self.library.add(vector_file(self.seed, hidden=HIDDEN, description=one), one)
        return {
            "id": "job-1",
            "status": "failed" if self.fails else "succeeded",
            "progress": {"done": 1, "total": 1, "rate": 0, "eta_s": 0},
            "phase": "",
            "error": {"message": "nothing could be read"} if self.fails else None,
            "bad_rows": [],
            "vectors": names,
        }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Library(tmp_path / "library", hidden_size=HIDDEN, num_layers=8))


@pytest.fixture
def extract(
    bench: Bench, tmp_path: Path, steersman: Run, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    app = FastAPI()
    error_response.install(app)

    @app.post("/v1/steering/vectors/extract")
    async def extract(request: Request) -> dict[str, Any]:
        answer: dict[str, Any] = bench.extract(await request.json())
        return answer

    app.include_router(build_router())
    app.state.steersman = SimpleNamespace(
        library_for=lambda _: bench.library,
        presets_for=lambda _: presets_of(bench.library),
        max_upload_bytes=200_000,
        on_change=lambda *_: None,
        capabilities_for=lambda _: {"num_layers": 8},
    )
    for side in ("glad", "sad"):
        (tmp_path / f"{side}.txt").write_text(f"{side}\n")
    texts = ["--positive", str(tmp_path / "glad.txt"), "--negative", str(tmp_path / "sad.txt")]
    styles = [f"--styles={tmp_path / side}.txt" for side in ("glad", "sad")]

    def run(name: str, *more: str, method: str = "mean_difference") -> Done:
        given = styles if method == "style" else texts
        return steersman("vectors", "extract", name, "--method", method, *given, *more)

    with serving(app) as url:
        monkeypatch.setenv("STEERSMAN_SERVER", url)
        yield run


def names(bench: Bench) -> list[str]:
    return [entry.name for entry in bench.library.list()]


def test_a_name_that_is_taken(extract: Run, bench: Bench) -> None:
    assert extract("mood").status == 0
    first = bench.library.resolve("mood").digest
    refused = extract("mood")
    assert refused.status == 1
    assert "--replace" in refused.err
    assert bench.library.resolve("mood").digest == first
    done = extract("mood", "--replace")
    assert done.status == 0
    now = bench.library.resolve("mood")
    assert f"made mood@{short(now.digest)}\n" in done.out
    assert now.versions == (now.digest, first)
    assert now.digest != first
    assert names(bench) == ["mood"]
    told = extract("mood", "--replace", "--json").json
    assert [vector["id"] for vector in told["vectors"]] == ["mood"]
    assert len(bench.library.resolve("mood").versions) == 3


def test_a_free_name_needs_no_replacing(extract: Run, bench: Bench) -> None:
    assert extract("mood", "--replace").status == 0
    assert bench.asked == ["mood"]
    assert names(bench) == ["mood"]


def test_a_job_that_fails_leaves_what_was_there(extract: Run, bench: Bench) -> None:
    extract("mood")
    before = bench.library.resolve("mood")
    bench.fails = True
    done = extract("mood", "--replace")
    assert done.status == 1
    assert "nothing could be read" in done.err
    assert bench.library.resolve("mood") == before
    assert names(bench) == ["mood"]


def test_styles_of_which_one_is_taken(extract: Run, bench: Bench) -> None:
    bench.library.add(vector_file(99, hidden=HIDDEN), "mood-sad")
    assert extract("mood", method="style").status == 1
    done = extract("mood", "--replace", method="style")
    assert done.status == 0, done.err
    assert names(bench) == ["mood-glad", "mood-sad"]
    assert len(bench.library.resolve("mood-sad").versions) == 2
    assert len(bench.library.resolve("mood-glad").versions) == 1


def test_it_cannot_replace_without_waiting(extract: Run, bench: Bench) -> None:
    done = extract("mood", "--replace", "--no-wait")
    assert done.status == 2
    assert "--no-wait" in done.err
    assert bench.asked == []
