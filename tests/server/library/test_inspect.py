"""The inspect route on a bare FastAPI app: ranks without logits, steps, and what is left out."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.doses import Doses
from steersman.server.library import inspect as inspect_api
from steersman.server.library import routes as vectors_api
from steersman.vectors.file.format import BaseModel, SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint

HIDDEN = 6
ROW = [1.0, 2.0, 0.0, 0.0, 0.0, 2.0]
SAID = {"top": [(7, 1.5), (8, 1.0)], "bottom": [(9, -2.0), (3, -1.0)]}


class Engine:
    """Tensor parallel: the first rank has nothing to say."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[torch.Tensor], int]] = []
        self.ranks = 2

    async def collective_rpc(self, method: str, args: tuple[list[bytes], int]) -> list[Any]:
        assert method == "steering_lens"
        rows = [torch.frombuffer(bytearray(row), dtype=torch.float32) for row in args[0]]
        self.asked.append((rows, args[1]))
        answer = {"norm": "model.norm", "tokens": [SAID] * len(rows)}
        return [None, answer][: self.ranks]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path, hidden_size=HIDDEN, num_layers=4)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def client(library: Library, engine: Engine) -> Any:
    app = FastAPI()
    error_response.install(app)
    app.include_router(inspect_api.build_router())
    app.include_router(vectors_api.build_router())
    tokenizer = SimpleNamespace(decode=lambda ids: f"<{ids[0]}>")
    app.state.steersman = SimpleNamespace(
        library_for=lambda _: library,
        doses_for=lambda _: Doses(None, None),
        extraction_for=lambda _: SimpleNamespace(engine=engine, tokenizer=tokenizer),
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def add(library: Library, name: str, **tensors: torch.Tensor) -> None:
    keyed = {HookPoint("resid_post", int(key[1:])): tensor for key, tensor in tensors.items()}
    library.add(write_vector(SteeringVector(keyed)), name)


def test_the_rank_that_has_logits_is_heard(client: Any, library: Library, engine: Engine) -> None:
    add(library, "v", L1=torch.tensor(ROW), L2=torch.ones(HIDDEN))
    found = client.get("/v1/steering/vectors/v/inspect?count=2").json()
    assert found["final_norm"] == "model.norm"
    first, second = found["tensors"]
    assert first["name"] == "resid_post.1"
    assert first["norm"] == 3
    assert first["relative_norm"] is None
    assert first["top_tokens"] == [
        {"id": 7, "text": "<7>", "logit": 1.5},
        {"id": 8, "text": "<8>", "logit": 1.0},
    ]
    assert [t["id"] for t in second["bottom_tokens"]] == [9, 3]
    ((rows, count),) = engine.asked
    assert [row.tolist() for row in rows] == [ROW, [1.0] * HIDDEN]
    assert count == 2


def test_nobody_has_logits(client: Any, library: Library, engine: Engine) -> None:
    engine.ranks = 1
    add(library, "v", L1=torch.ones(HIDDEN))
    answer = client.get("/v1/steering/vectors/v/inspect")
    assert answer.status_code == 500
    assert "no worker gave logits" in answer.json()["error"]["message"]


def test_steps(client: Any, library: Library, engine: Engine) -> None:
    """Norms are the longest step's; the direction is the mean over the steps."""
    row = torch.tensor(ROW)
    add(library, "v", L1=torch.stack([row, 3 * row]))
    add(library, "w", L1=row)
    (found,) = client.get("/v1/steering/vectors/v/inspect").json()["tensors"]
    assert found["shape"] == [2, HIDDEN]
    assert found["norm"] == 9
    assert found["similar"] == [{"id": "w", "cosine": pytest.approx(1)}]
    assert engine.asked[0][0][0].tolist() == [2 * x for x in ROW]


def test_the_most_similar_come_first_whatever_their_sign(client: Any, library: Library) -> None:
    add(library, "v", L1=torch.tensor([1.0, 0, 0, 0, 0, 0]))
    add(library, "near", L1=torch.tensor([1.0, 1, 0, 0, 0, 0]))
    add(library, "opposite", L1=torch.tensor([-5.0, 0, 0, 0, 0, 0]))
    add(library, "elsewhere", L2=torch.ones(HIDDEN))
    add(library, "nothing", L1=torch.zeros(HIDDEN))
    found = client.get("/v1/steering/vectors/v/inspect").json()
    assert found["tensors"][0]["similar"] == [
        {"id": "opposite", "cosine": pytest.approx(-1)},
        {"id": "near", "cosine": pytest.approx(0.5**0.5)},
    ]
    assert found["similarity"] == {
        "tensors": ["resid_post.1"],
        "vectors": ["elsewhere", "near", "nothing", "opposite"],
        "cosines": [[None, pytest.approx(0.5**0.5), None, pytest.approx(-1)]],
    }


def test_what_is_not_compared_is_counted(
    client: Any, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "v"):
        add(library, name, L1=torch.ones(HIDDEN))
    monkeypatch.setattr(inspect_api, "MAX_COMPARED", 1)
    found = client.get("/v1/steering/vectors/v/inspect").json()
    assert found["not_compared"] == 1
    assert found["similarity"]["vectors"] == ["a"]


def test_like_is_compared_with_like(client: Any, library: Library) -> None:
    """A library of several models: other widths at the same hook point, other fingerprints."""
    row = torch.ones(HIDDEN)

    def file_of(tensor: torch.Tensor, made_on: str | None) -> bytes:
        base = None if made_on is None else BaseModel(fingerprint=made_on)
        return write_vector(SteeringVector({HookPoint("resid_post", 1): tensor}, base_model=base))

    wide = Library(library.root, hidden_size=640)
    wide.add(file_of(torch.ones(640), None), "wide")
    for n, (name, made_on) in enumerate(
        {"v": "f1", "same": "f1", "silent": None, "of-f2": "f2"}.items()
    ):
        library.add(file_of((n + 1) * row, made_on), name)
    found = client.get("/v1/steering/vectors/v/inspect").json()
    assert found["similarity"]["vectors"] == ["same", "silent"]
    assert found["similarity"]["cosines"] == [[pytest.approx(1)] * 2]
    assert found["not_compared"] == 2
    silent = client.get("/v1/steering/vectors/silent/inspect").json()
    assert silent["similarity"]["vectors"] == ["of-f2", "same", "v"]
    assert client.get("/v1/steering/vectors/wide/inspect").json()["error"]["param"] == "id"


def test_another_vector_that_is_broken_is_left_out(client: Any, library: Library) -> None:
    add(library, "v", L1=torch.ones(HIDDEN))
    add(library, "w", L1=2 * torch.ones(HIDDEN))
    path = library.content_path(library.resolve("w"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-4])
    answer = client.get("/v1/steering/vectors/v/inspect")
    assert answer.status_code == 200
    assert "w" not in answer.json()["similarity"]["vectors"]
