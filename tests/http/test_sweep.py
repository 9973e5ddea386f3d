"""`steersman sweep` and its parts against the real server, and perplexity against Hugging Face."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from bench.servers import Server
from steersman.client.cli import main
from steersman.client.sweep.ask import Answer, Asker, perplexity
from steersman.client.sweep.grid import UNSTEERED, Cell
from steersman.client.sweep.measures import make_measure
from steersman.client.sweep.prompts import PROMPTS
from steersman.vectors.demo.activations import load_model
from steersman.vectors.demo.contrast import contrasts
from steersman.vectors.demo.defaults import load_defaults
from steersman.vectors.demo.directions import find_directions
from steersman.vectors.demo.make import build_vector
from steersman.vectors.file.format import BaseModel, write_vector
from tests.support.http.client import Client

LAYER = 14
URL = "/v1/steering/vectors/cheerful"


@pytest.fixture(scope="module")
def cheerful(client: Client, model: Path) -> Iterator[dict[str, Any]]:
    """The demo vector as the server describes it, of the one layer that is swept."""
    texts = {"cheerful": contrasts()["cheerful"]}
    loaded = load_model(model, blocks=LAYER + 1)
    found = find_directions(loaded, texts, (LAYER,), lambda line: print(line, file=sys.stderr))
    defaults = replace(load_defaults()["cheerful"], layers=(LAYER,), safe_range=(0.0, 0.0))
    made = build_vector(texts["cheerful"], found, defaults, BaseModel())
    answer = client.upload(write_vector(made))
    assert answer.status_code == 201
    yield answer.json()
    client.http.delete(URL)


@pytest.fixture(scope="module")
def reference(model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def with_asker(
    server: Server, vector: dict[str, Any], work: Callable[[Asker], Awaitable[Answer]]
) -> Answer:
    async def run() -> Answer:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
            name = f"cheerful@{vector['digest'].removeprefix('sha256:')[:16]}"
            return await work(Asker(http, "smollm2", name, vector["digest"], max_tokens=24))

    return asyncio.run(run())


@torch.no_grad()
def reference_log_probabilities(reference: Any, answer: Answer) -> torch.Tensor:
    """[answer tokens, vocabulary], unsteered, float32."""
    tokens = torch.tensor([[*answer.prompt_tokens, *answer.tokens]])
    logits = reference(input_ids=tokens).logits[0, len(answer.prompt_tokens) - 1 : -1]
    return torch.log_softmax(logits, dim=-1)


def test_perplexity_of_a_steered_answer_is_hugging_faces(
    server: Server, cheerful: dict[str, Any], reference: Any
) -> None:
    scored: list[list[float]] = []

    async def work(asker: Asker) -> Answer:
        answer = await asker.answer(PROMPTS[0], Cell((LAYER,), 6.0))
        scored.append(await asker.log_probabilities(answer))
        return answer

    answer = with_asker(server, cheerful, work)
    assert len(answer.tokens) > 1
    by_token = reference_log_probabilities(reference, answer)
    expected = by_token.gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
    assert scored[0] == pytest.approx(expected.tolist(), abs=1e-3)
    assert perplexity(scored) == pytest.approx(float((-expected.mean()).exp()), abs=1e-3)


def test_log_odds_are_hugging_faces(
    server: Server, cheerful: dict[str, Any], reference: Any
) -> None:
    measure = make_measure('logodds:"Yes","No"')
    found: list[float | None] = []

    async def work(asker: Asker) -> Answer:
        await measure.prepare(asker.tokenize)
        answer = await asker.answer("Is the sun cold?", UNSTEERED, **measure.fields)
        found.append(await measure.of(answer))
        return answer

    answer = with_asker(server, cheerful, work)
    yes, no = measure.fields["logprob_token_ids"]
    first = reference_log_probabilities(reference, answer)[0]
    assert found[0] == pytest.approx(float(first[yes] - first[no]), abs=1e-3)


def test_a_sweep_of_cheerful(
    server: Server,
    client: Client,
    cheerful: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS[:8]))
    options = ["--layers", str(LAYER), "--coefficients", "2,4", "--prompts", str(prompts)]
    where = ["--server", server.url, "--json", "--out", str(tmp_path)]
    assert main(["sweep", "cheerful", *options, *where, "--write", "--yes"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "sweep-cheerful.json").read_text())
    assert (tmp_path / "sweep-cheerful.png").read_bytes().startswith(b"\x89PNG")
    cells = {cell["coefficient"]: cell for cell in found["cells"]}
    assert list(cells) == [0.0, 2.0, 4.0]
    for cell in cells.values():
        assert [a["prompt"] for a in cell["answers"]] == list(PROMPTS[:8])
    assert cells[4.0]["measure"] > cells[0.0]["measure"] + 0.2
    picked = found["picked"]
    assert cells[picked["coefficient"]]["fluent"]
    now = client.http.get(URL).json()
    assert now["coefficient"] == picked["coefficient"]
    assert now["layers"] == [LAYER]
    assert now["safe_range"] == picked["safe_range"] != cheerful["safe_range"]
    assert cheerful["digest"] in now["versions"]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["nobody"], 1, "nobody"),
        (["cheerful", "--layers", "3"], 1, "no layer 3"),
        (["cheerful", "--measure", "joy"], 2, "no measure"),
        (["cheerful", "--server", "http://127.0.0.1:1"], 3, "no server answers"),
    ],
)
def test_what_cannot_be_swept(
    server: Server,
    cheerful: dict[str, Any],
    tmp_path: Path,
    options: list[str],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--server", server.url, "--out", str(tmp_path)]
    assert main(["sweep", *where, *options]) == status
    assert said in capsys.readouterr().err


def test_inspect_from_the_command_line(
    server: Server,
    cheerful: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--server", server.url, "--out", str(tmp_path)]
    assert main(["vectors", "inspect", "cheerful", *where]) == 0
    table = capsys.readouterr().out
    found = json.loads((tmp_path / "inspect-cheerful.json").read_text())
    assert f"resid_post.{LAYER}" in table
    assert repr(found["tensors"][0]["top_tokens"][0]["text"]) in table
    assert (tmp_path / "inspect-cheerful.png").read_bytes().startswith(b"\x89PNG")
    assert main(["vectors", "inspect", "cheerful", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
