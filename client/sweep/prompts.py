"""The prompts of every cell: neutral ones, or those of a file."""

import json
from pathlib import Path
from typing import Final

from steersman.client.errors import WrongUsage

PROMPTS: Final = (
    "Describe a railway station in the early evening.",
    "Tell me about your neighbourhood.",
    "Write a few sentences about a letter that arrived today.",
    "What do people do on a Sunday afternoon?",
    "Describe the room you are in.",
    "Tell me about a journey by bus.",
    "Write a short paragraph about a bridge.",
    "What did you see on the way to work?",
    "Describe a person waiting in a queue.",
    "Tell me about the library in your town.",
    "Write a few sentences about a garden in October.",
    "How was the concert last night?",
    "Describe a harbour.",
    "Tell me about an old photograph.",
    "Write a short paragraph about a teacher.",
    "What is it like to live on the tenth floor?",
)
"""This project's own. The demo vectors were made and tuned on others (`tools/demo/measures.py`)."""


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read one prompt a line; in a .jsonl file, each line is a string, or an object with "prompt".

    Raises `WrongUsage`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{path} cannot be read: {error}", param="--prompts") from error
    found = [
        _from_json(line, n, path) if path.suffix == ".jsonl" else line.strip()
        for n, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise WrongUsage(f"{path} holds no prompt", param="--prompts")
    return tuple(dict.fromkeys(found))


def _from_json(line: str, number: int, path: Path) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    text = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise WrongUsage(
            f'{path}, line {number}: neither a string nor an object with a string "prompt"',
            param="--prompts",
        )
    return text
