"""What other people's clients do with a running demo server: the table of docs/clients.md.

python -m tests.clients.table [--server URL] [--python PYTHON] [--node FOLDER] [--write]

Starts the demo server unless --server names one that runs. PYTHON is that of an environment with
requirements/clients.txt (default: .venv/clients/bin/python), FOLDER has node_modules with what
tests/clients/node/package.json names. Each program of `tests/clients/programs` prints its answers;
whether they are steered is judged by the same question over bare HTTP, with the field and without,
at temperature 0. Ends with 1 if a cell is not what it should be.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import torch

from bench.servers import demo_model
from steersman.vectors.file.format import SteeringVector, read_vector
from tests.clients.compare import ASK, Known, ask, serving
from tests.reference.reference import ReferenceModel, Term
from tools.docs.markers import insert

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
PAGE: Final = ROOT / "docs" / "clients.md"
COLUMNS: Final = {
    "plain": "plain",
    "field": "by field",
    "name": "by model name",
    "stream": "streaming",
}
OURS: Final = ("vllm_bench.py",)
"""Programs for the environment of vLLM; those of the others need none of it."""
NODE: Final = ("promptfoo_eval.py",)
"""Programs that run something of node's."""
LIGHT: Final = ("openai_python.py", "anthropic_sdk.py")
"""Programs whose packages vLLM's environment has, too."""
EVERYWHERE: Final = {
    "vectors": [{"id": ASK["vector"], "coefficient": ASK["coefficient"], "positions": "all"}]
}
HOOKS_WITHIN: Final = 2e-3
"""Nats by which a log-likelihood of a few tokens may differ from Hugging Face's with hooks."""


def lines(command: list[str]) -> Iterator[dict[str, str]]:
    """What a program prints. Raises RuntimeError if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    for line in done.stdout.splitlines():
        if line.startswith('{"client"'):
            yield json.loads(line)


def python_lines(
    python: str, name: str, url: str, model: str, node: str = ""
) -> Iterator[dict[str, str]]:
    """What a Python program prints."""
    return lines([python, str(HERE / "programs" / name), url, model, node])


def known(url: str) -> dict[str, Known]:
    """The right answers, by route; makes the preset that lm-eval uses."""
    body = {"name": "everywhere", "steering": EVERYWHERE}
    httpx.post(f"{url}/v1/steering/presets", json=body).raise_for_status()
    counted = Known("unsteered", "steered")
    return ask(url) | {"parsed": Known("unsteered", "parsed"), "counted": counted}


def judged(line: Mapping[str, str], answers: Mapping[str, Known]) -> str:
    """The cell of a line: `yes`, and how; or what went wrong."""
    if line["error"]:
        return f"**no**: {line['error']}"
    wanted = "unsteered" if line["column"] == "plain" else "steered"
    if (found := answers[line["route"]].verdict(line["text"])) != wanted:
        return f"**no**: {found} ({line['text']!r})"
    if line["receipt"] not in ("", str(float(ASK["coefficient"])), str(ASK["coefficient"])):
        return f"**no**: a receipt for {line['receipt']}"
    return f"yes, {line['how']}" if line["how"] else "yes"


def table(found: list[dict[str, str]], answers: Mapping[str, Known]) -> list[str]:
    """The rows in Markdown."""
    cells: defaultdict[str, dict[str, str]] = defaultdict(dict)
    receipts: defaultdict[str, list[str]] = defaultdict(list)
    for line in found:
        cells[line["client"]][line["column"]] = judged(line, answers)
        if line["receipt"]:
            where = "a stream's" if line["column"] == "stream" else "an answer's"
            if where not in receipts[line["client"]]:
                receipts[line["client"]].append(where)
    rows = [f"| client | {' | '.join(COLUMNS.values())} | receipt read |"]
    rows.append(f"|{' --- |' * (len(COLUMNS) + 2)}")
    for client, by in cells.items():
        shown = " | ".join(by.get(column, "-") for column in COLUMNS)
        rows.append(f"| {client} | {shown} | {', '.join(receipts[client]) or 'no'} |")
    return rows


def hooked(model: str, vector: SteeringVector) -> list[float]:
    """The log-likelihoods of lm-eval's pairs under the preset, by Hugging Face with hooks."""
    from transformers import AutoTokenizer

    tokenizer, reference = AutoTokenizer.from_pretrained(model), ReferenceModel(model)
    terms = [
        Term(site, layer, float(ASK["coefficient"]), torch.as_tensor(tensor), "all")
        for (site, layer), tensor in vector.tensors.items()
        if layer in vector.layers
    ]
    scores = []
    for context, continuation in ASK["pairs"]:
        before, whole = (tokenizer.encode(text) for text in (context, context + continuation))
        logs = reference.steered_logprobs(whole, len(whole), terms)
        scores.append(sum(float(logs[at - 1, whole[at]]) for at in range(len(before), len(whole))))
    return scores


def lm_eval_is_exact(found: list[dict[str, str]], url: str, model: str) -> str:
    """Whether lm-eval's scores through the preset are those of the hooks; says what it found."""
    content = httpx.get(f"{url}/v1/steering/vectors/{ASK['vector']}/content").content
    wanted = hooked(model, read_vector(content))
    (got,) = [
        json.loads(x["text"]) for x in found if (x["route"], x["column"]) == ("scores", "name")
    ]
    worst = max(abs(a - b) for a, b in zip(got, wanted, strict=True))
    if worst > HOOKS_WITHIN:
        raise SystemExit(f"lm-eval's scores {got} are not those of the hooks, {wanted}")
    return (
        f"lm-eval's log-likelihoods of {len(wanted)} texts through the preset differ from those of "
        f"Hugging Face with hooks by {worst:.1e} nats at most."
    )


def run(url: str, given: argparse.Namespace, model: str) -> tuple[list[str], bool]:
    """The lines of the page's part, and whether all is as it should be."""
    answers = known(url)
    found: list[dict[str, str]] = []
    for path in sorted((HERE / "programs").glob("*.py")):
        if path.name in ("__init__.py", "say.py") or (path.name in NODE and not given.node):
            continue
        python = sys.executable if path.name in OURS else given.python
        found += python_lines(python, path.name, url, model, given.node)
        print(f"{path.name}: {len(found)} cells so far", file=sys.stderr, flush=True)
    if given.node:
        found += lines(["node", str(HERE / "programs" / "javascript.mjs"), url, given.node])
    rows = table(found, answers)
    rows += ["", lm_eval_is_exact(found, url, model)]
    return rows, not any("**no**" in row for row in rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--server", default=str(ROOT), metavar="URL")
    parser.add_argument("--python", default=str(ROOT / ".venv/clients/bin/python"))
    parser.add_argument("--node", default=str(ROOT / ".venv/clients/node"), metavar="FOLDER")
    parser.add_argument("--write", action="store_true", help="write docs/clients.md")
    given = parser.parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with serving(given.server) as url:
        rows, right = run(url, given, demo_model())
    print("\n".join(rows))
    if given.write and right:
        PAGE.write_text(insert(PAGE.read_text(), "clients", "\n".join(rows)))
    if not right:
        raise SystemExit("a cell is not what it should be")


def cells_of(rows: list[dict[str, Any]], answers: Mapping[str, Known]) -> dict[str, str]:
    """Each line's cell, by client and column."""
    return {f"{row['client']}, {row['column']}": judged(row, answers) for row in rows}


if __name__ == "__main__":
    main()
