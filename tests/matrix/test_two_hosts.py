"""One model over two hosts: a steered answer is that of one host, and a host that is cut off ends
in an error and an exit, upon which a supervisor starts the group again."""

from pathlib import Path
from typing import Any

import pytest

from steersman.steering.plan import Plan, PlannedVector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.support.engine.engine import Ask
from tests.support.http.two_hosts import STEP_S, Hosts, missing, two_hosts
from tests.support.matrix import tiny
from tests.support.matrix.bench import Bench
from tests.support.matrix.judge import CLOSE
from tests.support.matrix.results import way

pytestmark = pytest.mark.matrix

PROMPT = tuple(range(3, 33))
TOKENS = 8
LAYERS = (0, 2)
WAYS = {
    "tensor parallel 2 over two hosts": ("--tensor-parallel-size", "2"),
    "pipeline parallel 2 over two hosts": ("--pipeline-parallel-size", "2"),
}


@pytest.fixture(scope="module")
def alone(bench: Bench) -> list[dict[str, Any]]:
    """One host's answers, unsteered and steered."""
    digest = Library(bench.library).resolve("v1").digest
    # A request names layers, and steers at all sites of the vector there.
    terms = tuple(sorted(HookPoint(site, layer) for site in tiny.SITES for layer in LAYERS))
    plan = Plan((PlannedVector(digest, 0.5, terms, "all"),))
    asks = [Ask(PROMPT, None, TOKENS), Ask(PROMPT, plan, TOKENS)]
    found: list[dict[str, Any]] = bench.here({"alone": {}}, asks=asks)["alone"]["mixed"]
    return found


def answer(hosts: Hosts, steering: Any = None) -> dict[str, Any]:
    body = {
        "model": "tiny", "prompt": list(PROMPT), "max_tokens": TOKENS, "temperature": 0,
        "logprobs": 1, "return_token_ids": True, "ignore_eos": True,
    }  # fmt: skip
    sent = body if steering is None else body | {"steering": steering}
    found = hosts.http.post("/v1/completions", json=sent)
    assert found.status_code == 200, found.text
    made: dict[str, Any] = found.json()
    return made


@pytest.mark.parametrize("name", WAYS)
def test_two_hosts_answer_as_one_until_one_is_cut_off(
    bench: Bench, alone: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    if why := missing():
        pytest.skip(why)  # Only root may make a namespace.
    use = {"id": "v1", "coefficient": 0.5, "layers": list(LAYERS), "positions": "all"}
    with way(name) as row, two_hosts(bench, tmp_path, WAYS[name]) as hosts:
        worst = 0.0
        for wanted, steering in zip(alone, (None, {"vectors": [use]}), strict=True):
            found = answer(hosts, steering)
            (choice,) = found["choices"]
            assert choice["token_ids"] == wanted["tokens"]
            said = choice["logprobs"]["token_logprobs"]
            for token, at, logprob in zip(wanted["tokens"], wanted["logprobs"], said, strict=True):
                worst = max(worst, abs(at[str(token)] - logprob))
            assert ("steering" in found) == (steering is not None)
        assert worst <= CLOSE
        assert alone[0]["tokens"] != alone[1]["tokens"]
        hosts.cut()
        failed = hosts.http.post("/v1/completions", json={"model": "tiny", "prompt": [5, 6, 7]})
        assert failed.status_code == 500
        assert failed.json()["error"]["message"]
        assert hosts.leader.wait(STEP_S + 60) != 0
        assert "the engine died" in hosts.log.read_text()
        row.steered(
            f"within {worst:.0e} of one host (a network namespace is the other); once it is cut "
            "off, a request is a 500 and the server exits"
        )
