"""Other people's clients that vLLM's environment has: openai's and Anthropic's Python, and
`vllm bench serve`. `make clients` has the others, and writes docs/clients.md."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.servers import Server
from steersman.vectors.demo.make import make_vectors
from tests.clients.compare import ASK, Known
from tests.clients.table import LIGHT, OURS, cells_of, forget, known, python_lines
from tests.support.http.client import Client


@pytest.fixture(scope="module")
def answers(server: Server, client: Client, model: Path) -> Iterator[dict[str, Known]]:
    """The right answers; the library has the demo's vector."""
    paths = make_vectors(model, model.parent / f"{model.name}-vectors")
    (made,) = (path for path in paths if path.stem == ASK["vector"])
    assert client.upload(made.read_bytes(), ASK["vector"]).status_code == 201
    yield known(server.url, str(model))
    forget(server.url)
    client.http.delete(f"/v1/steering/vectors/{ASK['vector']}")


@pytest.mark.parametrize("program", [*LIGHT, *OURS])
def test_every_cell_is_right(
    program: str, server: Server, answers: dict[str, Known], model: Path
) -> None:
    rows = list(python_lines(sys.executable, program, server.url, str(model)))
    assert len(rows) >= 3
    cells = cells_of(rows, answers)
    assert {cell: said for cell, said in cells.items() if not said.startswith("yes")} == {}
    for row in rows:
        if row["column"] == "plain":
            assert row["receipt"] == ""
    if program in LIGHT:
        read = {row["column"] for row in rows if row.get("receipt")}
        assert {"field", "name", "stream"} <= read
