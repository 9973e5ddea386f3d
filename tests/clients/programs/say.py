"""The lines that these programs print, and the question that they ask."""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

URL = sys.argv[1]
ASK: dict[str, Any] = json.loads((Path(__file__).parents[1] / "ask.json").read_text())
STEERING: dict[str, Any] = {"vectors": {ASK["vector"]: ASK["coefficient"]}}
NAME = f"{ASK['model']}:{ASK['vector']}@{ASK['coefficient']}"
EVERYWHERE: dict[str, Any] = {"id": ASK["everywhere"], "coefficient": ASK["coefficient"]}
"""A vector whose own positions are `all`."""
MESSAGES = [{"role": "user", "content": ASK["question"]}]
CHAT: dict[str, Any] = {
    "messages": MESSAGES,
    "max_tokens": ASK["tokens"],
    "stop": ASK["stop"],
    "temperature": 0,
}
Seen = tuple[str, Any]
"""An answer's text, and its receipt as the client shows it; None where it shows none."""


class Say:
    """Prints the cells of one client."""

    def __init__(self, name: str, package: str | None, route: str = "chat") -> None:
        version = "" if package is None else f" {importlib.metadata.version(package)}"
        self._client = f"{name}{version}"
        self._route = route

    def cell(self, column: str, how: str, ask: Callable[[], Seen]) -> None:
        """`column`: plain, field, name or stream. `how`: what the client is given, in Markdown."""
        line = {"client": self._client, "column": column, "how": how, "route": self._route}
        try:
            text, receipt = ask()
            line |= {"text": text, "receipt": receipt_of(receipt), "error": ""}
        except Exception as error:  # noqa: BLE001 (what a client makes of it is what is seen)
            line |= {"text": "", "receipt": "", "error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(line), flush=True)

    def without(self, column: str, why: str) -> None:
        """`column` is nothing that this client does, and why. `receipt`: it shows none."""
        line = {"client": self._client, "column": column, "how": why, "route": ""}
        print(json.dumps(line), flush=True)


def receipt_of(found: Any) -> str:
    """The coefficient that a receipt, or the header's, says; empty where there is none."""
    if isinstance(found, str):
        found = json.loads(found)
    if not found:
        return ""
    vectors = found["vectors"] if isinstance(found, dict) else found.vectors
    (vector,) = vectors
    coefficient = vector["coefficient"] if isinstance(vector, dict) else vector.coefficient
    return str(coefficient)
