"""The scripts and the notebook of `examples/` do what they say, against a real server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.servers import Server
from tests.support.http.client import Client

EXAMPLES = Path(__file__).parents[2] / "examples"


def output(name: str, *arguments: str) -> str:
    """What the script prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_steer_prints_both_answers_and_the_receipt(server: Server, rnd: str) -> None:
    said, _, receipt = output("steer.py", server.url, rnd, "3").partition("receipt:")
    plain, steered = said.removeprefix("unsteered: ").split("steered: ")
    assert plain.strip() != steered.strip()
    (used,) = json.loads(receipt)["vectors"]
    assert (used["id"], used["coefficient"], used["steered_tokens"]) == (rnd, 3.0, 40)


def test_make_vector_makes_one_and_steers_with_it(server: Server, client: Client) -> None:
    name = "from-an-example"
    try:
        said = output("make_vector.py", server.url, name)
        made = client.http.get(f"/v1/steering/vectors/{name}").json()
    finally:
        client.http.delete(f"/v1/steering/vectors/{name}")
    assert f"{name} is made of 102 texts; it steers at {made['layers']}" in said
    assert set(made["layers"]) <= {14, 16}
    assert made["method"] == "mean_difference"
    plain, steered = (said.partition(f"at {c}: ")[2].partition("\nat ")[0] for c in (0.0, 1.0))
    assert plain
    assert steered
    assert plain.strip() != steered.strip()


def run_notebook(name: str) -> dict[str, Any]:
    """Run its cells in their order, as Jupyter does; none has outputs in the repository. Returns
    what they name."""
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells)
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    return names


def test_the_notebook_turns_the_dial(
    server: Server, rnd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERSMAN_URL", server.url)
    monkeypatch.setenv("STEERSMAN_VECTOR", rnd)
    names = run_notebook("dial.ipynb")
    texts = [answer.choices[0].message.content for answer in names["answers"].values()]
    assert texts[0] != texts[2] != texts[4]
    for coefficient, receipt in names["receipts"].items():
        (used,) = receipt["vectors"]
        assert (used["id"], used["coefficient"]) == (rnd, coefficient)


def test_the_notebook_makes_a_vector_and_puts_it_together_with_another(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERSMAN_SERVER", server.url)
    monkeypatch.chdir(EXAMPLES)
    names = run_notebook("vector.ipynb")
    sweep = names["sweep"]
    assert sweep[1.0][0] > sweep[-1.0][0], "more glad words"
    assert names["answer"].receipt["vectors"][0]["coefficient"] == 1.0
    assert names["by_name"].text == names["by_field"].text != names["answer"].text
    assert names["by_name"].receipt["preset"] == "glad-twice"
    assert len(names["by_name"].receipt["vectors"]) == 2
    assert client.http.get(f"/v1/steering/vectors/{names['NAME']}").status_code == 404


def test_at_once_prints_five_answers_and_a_stream(server: Server, client: Client, rnd: str) -> None:
    said = output("at_once.py", server.url, rnd)
    question = "Tell me about your weekend."
    plain = client.chat_text(question, max_tokens=40)
    steered = client.chat_text(question, max_tokens=40, steering={"vectors": {rnd: 1.5}})
    assert plain != steered
    assert f"{0.0:+}: {plain}\n" in said
    assert f"{1.5:+}: {steered}\nstreamed: {steered}\nsteered tokens: 40\n" in said
    assert all(f"{c:+}: " in said for c in (-1.5, -0.75, 0.75))
