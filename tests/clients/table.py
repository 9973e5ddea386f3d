"""What other people's clients do with a running demo server: the table of docs/clients.md.

python -m tests.clients.table [--server URL] [--python PYTHON] [--node FOLDER]
    [--only PROGRAM ...] [--write]

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

from bench.servers import demo_model
from tests.clients import exact
from tests.clients.compare import ASK, Known, ask, serving
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
LIGHT: Final = ("openai_python.py", "anthropic_sdk.py")
"""Programs whose packages vLLM's environment has, too."""
EVERYWHERE: Final = {
    "vectors": [{"id": ASK["vector"], "coefficient": ASK["coefficient"], "positions": "all"}]
}


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


def known(url: str, model: str) -> dict[str, Known]:
    """The right answers, by route; makes the preset and the vector that lm-eval uses. Those to
    lm-eval's task are Hugging Face's with hooks, those to the others the server's own."""
    body = {"name": "everywhere", "steering": EVERYWHERE}
    httpx.post(f"{url}/v1/steering/presets", json=body).raise_for_status()
    vectors = f"{url}/v1/steering/vectors"
    content = httpx.get(f"{vectors}/{ASK['vector']}/content").raise_for_status().content
    form: dict[str, Any] = {"files": {"file": ("v", content)}, "data": {"name": ASK["everywhere"]}}
    httpx.post(vectors, **form).raise_for_status()
    change = {"positions": "all"}
    httpx.patch(f"{vectors}/{ASK['everywhere']}", json=change).raise_for_status()
    counted = Known("unsteered", "steered")
    own = {"parsed": Known("unsteered", "parsed"), "counted": counted}
    return ask(url) | own | {"task": exact.known(model, content)}


def forget(url: str) -> None:
    """Delete what `known` made."""
    httpx.delete(f"{url}/v1/steering/presets/everywhere").raise_for_status()
    httpx.delete(f"{url}/v1/steering/vectors/{ASK['everywhere']}").raise_for_status()


def judged(line: Mapping[str, str], answers: Mapping[str, Known]) -> str:
    """The cell of a line: `yes`, and how; why not; or what went wrong, in bold."""
    if "text" not in line:
        return f"no: {line['how']}"
    if line["error"]:
        return f"**no**: {line['error']}"
    wanted = "unsteered" if line["column"] == "plain" else "steered"
    if (found := answers[line["route"]].verdict(line["text"])) != wanted:
        return f"**no**: {found} ({line['text']!r})"
    if line["receipt"] and float(line["receipt"]) != ASK["coefficient"]:
        return f"**no**: a receipt for {line['receipt']}"
    return f"yes, {line['how']}" if line["how"] else "yes"


def table(found: list[dict[str, str]], answers: Mapping[str, Known]) -> list[str]:
    """The rows in Markdown."""
    cells: defaultdict[str, dict[str, str]] = defaultdict(dict)
    receipts: defaultdict[str, list[str]] = defaultdict(list)
    for line in found:
        cells[line["client"]][line["column"]] = judged(line, answers)
        if line.get("receipt"):
            where = "a stream's" if line["column"] == "stream" else "an answer's"
            if where not in receipts[line["client"]]:
                receipts[line["client"]].append(where)
    rows = [f"| client | {' | '.join(COLUMNS.values())} | receipt read |"]
    rows.append(f"|{' --- |' * (len(COLUMNS) + 2)}")
    for client, by in cells.items():
        shown = " | ".join(by.get(column, "**not tried**") for column in COLUMNS)
        read = ", ".join(receipts[client]) or by.get("receipt", "**none**")
        rows.append(f"| {client} | {shown} | {read} |")
    return rows


def ran(url: str, given: argparse.Namespace, model: str) -> Iterator[dict[str, str]]:
    """What all programs print, or those of `--only`."""
    for path in sorted((HERE / "programs").iterdir()):
        if path.suffix not in (".py", ".mjs") or path.name in ("__init__.py", "say.py"):
            continue
        if given.only and path.name not in given.only:
            continue
        print(path.name, file=sys.stderr, flush=True)
        if path.suffix == ".mjs":
            yield from lines(["node", str(path), url, str(Path(given.node).resolve())])
        else:
            python = sys.executable if path.name in OURS else given.python
            yield from python_lines(python, path.name, url, model, given.node)


def run(url: str, given: argparse.Namespace, model: str) -> tuple[list[str], bool]:
    """The lines of the page's part, and whether all is as it should be."""
    answers = known(url, model)
    try:
        found = list(ran(url, given, model))
    finally:
        forget(url)
    rows = table(found, answers)
    if not given.only or exact.PROGRAM in given.only:
        rows += ["", exact.judged(found, answers["task"])]
    return rows, not any("**" in row for row in rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--server", default=str(ROOT), metavar="URL")
    parser.add_argument("--python", default=str(ROOT / ".venv/clients/bin/python"))
    parser.add_argument("--node", default=str(ROOT / ".venv/clients/node"), metavar="FOLDER")
    parser.add_argument("--only", nargs="+", metavar="PROGRAM", help="such as langchain.py")
    parser.add_argument("--write", action="store_true", help="write docs/clients.md")
    given = parser.parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with serving(given.server) as url:
        rows, right = run(url, given, demo_model())
    print("\n".join(rows))
    if given.write and right and not given.only:
        PAGE.write_text(insert(PAGE.read_text(), "clients", "\n".join(rows)))
    if not right:
        raise SystemExit("a cell is not what it should be")


def cells_of(rows: list[dict[str, Any]], answers: Mapping[str, Known]) -> dict[str, str]:
    """Each line's cell, by client and column."""
    told = [row for row in rows if "text" in row]
    return {f"{row['client']}, {row['column']}": judged(row, answers) for row in told}


if __name__ == "__main__":
    main()
