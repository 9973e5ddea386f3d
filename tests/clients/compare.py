"""What other people's clients see of two servers of ours, one before and one after a change.

python -m tests.clients.compare --before WHERE --after WHERE
    [--clients PYTHON] [--lm-eval PYTHON] [--js FOLDER]

WHERE is the URL of a running server that has the vectors of the demo, or a working tree (`git
worktree add`), whose demo server is started and stopped. PYTHON is that of an environment with the
clients (openai, litellm[proxy] and langchain-openai; lm-eval); FOLDER has node_modules/openai; what
is left out is not run. Prints a Markdown table. `steered` and `unsteered` are by the text: each
server is first asked the same questions over bare HTTP, with the field and without, at temperature
0.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.servers import demo_model, running

HERE = Path(__file__).parent
ASK = json.loads((HERE / "ask.json").read_text())
STEERING = {"vectors": {ASK["vector"]: ASK["coefficient"]}}
SAME_SCORE = 0.02
"""Nats by which log-likelihoods may differ and be the same: a batch's order of summation moves them
by 1e-4, the vector by whole nats."""


@dataclass(frozen=True)
class Known:
    """The answer to a route's question at temperature 0, by bare HTTP."""

    unsteered: str
    steered: str

    def __post_init__(self) -> None:
        if _same(self.unsteered, self.steered):
            raise ValueError(f"steering changes nothing, so nothing can be judged: {self}")

    def verdict(self, text: str) -> str:
        """`steered`, `unsteered`, or `neither`."""
        if _same(text, self.steered):
            return "steered"
        return "unsteered" if _same(text, self.unsteered) else "neither"


def _same(one: str, other: str) -> bool:
    """Whether two texts, or two JSON lists of log-likelihoods, are the same."""
    try:
        pairs = list(zip(json.loads(one), json.loads(other), strict=True))
        return all(abs(a - b) < SAME_SCORE for a, b in pairs)
    except (ValueError, TypeError):
        return one == other


def cell(row: dict[str, str], known: dict[str, Known]) -> str:
    """What a client saw, of one of its lines: status, steered or not, receipt or not."""
    if row["status"] != "200":
        return row["status"]
    receipt = f"receipt: {row['receipt']}" if row["receipt"] else "no receipt"
    return f"200, {known[row['route']].verdict(row['text'])}, {receipt}"


def table(before: dict[tuple[str, str], str], after: dict[tuple[str, str], str]) -> list[str]:
    """The rows in Markdown, each client's name once; `the same` where nothing changed."""
    lines, last = ["| client | what it sends | before | now |", "| --- | --- | --- | --- |"], ""
    for client, what in {**before, **after}:
        old, new = (cells.get((client, what), "not run") for cells in (before, after))
        shown = "the same" if new == old else new
        lines.append(f"| {'' if client == last else client} | {what} | {old} | {shown} |")
        last = client
    return lines


def post(url: str, path: str, fields: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/v1/{path}",
        json.dumps({"model": ASK["model"], "temperature": 0, **fields}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def ask(url: str) -> dict[str, Known]:
    """What a server answers to each route's question. Raises ValueError where a steered answer has
    no receipt, or is the unsteered one."""

    def chat(**more: Any) -> Any:
        messages = [{"role": "user", "content": ASK["question"]}]
        shape = {"messages": messages, "max_tokens": ASK["tokens"], "stop": ASK["stop"]}
        return receipted(post(url, "chat/completions", {**shape, **more}), more)

    def chat_text(**more: Any) -> str:
        return str(chat(**more)["choices"][0]["message"]["content"])

    def response(**more: Any) -> str:
        shape = {"input": ASK["question"], "max_output_tokens": ASK["tokens"]}
        made = receipted(post(url, "responses", {**shape, **more}), more)
        parts = [part for item in made["output"] for part in item.get("content") or ()]
        return "".join(part.get("text", "") for part in parts)

    def scores(**more: Any) -> str:
        return json.dumps([score(*pair, **more) for pair in ASK["pairs"]])

    def score(context: str, continuation: str, **more: Any) -> float:
        shape = {"prompt": context + continuation, "echo": True, "logprobs": 1, "max_tokens": 1}
        made = receipted(post(url, "completions", {**shape, **more}), more)["choices"][0]
        whole, found = len(context + continuation), made["logprobs"]
        total: float = sum(
            value
            for value, at in zip(found["token_logprobs"], found["text_offset"], strict=True)
            if len(context) <= at < whole
        )
        return total

    everywhere = {"id": ASK["vector"], "coefficient": ASK["coefficient"], "positions": "all"}
    unsteered = chat_text()
    return {
        "chat": Known(unsteered, chat_text(steering=STEERING)),
        "dynamic": Known(unsteered, chat_text(steering=ASK["dynamic"])),
        "responses": Known(response(), response(steering=STEERING)),
        "scores": Known(scores(), scores(steering={"vectors": [everywhere]})),
    }


def receipted(answer: Any, sent: dict[str, Any]) -> Any:
    if bool(answer.get("steering")) != ("steering" in sent):
        raise ValueError(f"a bare request with {sent} was answered {answer}")
    return answer


def clients(url: str, given: argparse.Namespace) -> Iterator[dict[str, str]]:
    """The lines of every client program there is an environment for."""
    programs: list[tuple[list[str], str | None]] = []
    if given.clients:
        programs += [
            ([given.clients, str(HERE / name), url], None) for name in ("see.py", "see_proxy.py")
        ]
    if given.js:
        programs.append((["node", str(HERE / "see.mjs"), url], given.js))
    if given.lm_eval:
        scores = [given.lm_eval, str(HERE / "lm_eval_scores.py"), url, given.tokenizer]
        programs.append((scores, None))
    for command, folder in programs:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        # LiteLLM writes on standard output as well.
        for line in done.stdout.splitlines():
            if line.startswith('{"client"'):
                yield json.loads(line)


@contextlib.contextmanager
def serving(where: str) -> Iterator[str]:
    """The URL of a running server: `where` itself, or its working tree's demo server."""
    if where.startswith("http"):
        yield where.rstrip("/")
        return
    tree = str(Path(where).resolve())
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "steersman.client.cli", "serve", "--demo"]
        library = ["--library", str(Path(folder, "library"))]
        # A safe path leaves out the folder that we are in: the tree's modules are found first.
        modules = {"PYTHONPATH": tree, "PYTHONSAFEPATH": "1"}
        # vLLM keeps responses only where it is asked to.
        stored = {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}
        environment = {**modules, **stored}
        with running(tree, [*command, *library], environment, Path(folder, "log")) as server:
            yield server.url


def seen(where: str, given: argparse.Namespace) -> dict[tuple[str, str], str]:
    with serving(where) as url:
        known = ask(url)
        for route, texts in known.items():
            print(f"{where}, {route}: {texts}", file=sys.stderr, flush=True)
        cells = {}
        for row in clients(url, given):
            cells[row["client"], row["what"]] = cell(row, known)
            print(f"{where}: {row}", file=sys.stderr, flush=True)
        return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--before", required=True, metavar="URL|FOLDER")
    parser.add_argument("--after", required=True, metavar="URL|FOLDER")
    parser.add_argument("--clients", metavar="PYTHON")
    parser.add_argument("--lm-eval", metavar="PYTHON")
    parser.add_argument("--js", metavar="FOLDER")
    parser.add_argument("--tokenizer", help="folder of the model (default: the demo's)")
    given = parser.parse_args()
    given.tokenizer = given.tokenizer or demo_model()
    print("\n".join(table(seen(given.before, given), seen(given.after, given))))


if __name__ == "__main__":
    main()
