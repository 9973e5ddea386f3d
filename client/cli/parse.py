"""Parses values from the command line."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final

from steersman.client.errors import WrongUsage

_RANGE: Final = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)


def layers(text: str | None, option: str = "--layers") -> list[int] | None:
    """`8-20,25` as block numbers in order, each once; None for None. Raises `WrongUsage`."""
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise WrongUsage(
                f"{part.strip()!r} is neither a block nor a range of blocks",
                param=option,
                remedy="write blocks and ranges with commas between them, as in 8-20,25",
            )
        found.update(range(first, last + 1))
    return sorted(found)


def numbers(text: str | None, option: str) -> list[int] | None:
    """`12,88` as numbers in the order given; None for None. Raises `WrongUsage`."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        raise WrongUsage(
            f"{text!r} is not a list of numbers",
            param=option,
            remedy="write numbers from 0 with commas between them, as in 12,88",
        )
    return [int(part) for part in parts]


def settings(pairs: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """The settings in `key=value` pairs. A value is parsed as JSON; if it is not JSON, it is text.
    Raises `WrongUsage`."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise WrongUsage(
                f"{pair!r} is not a setting", param=option, remedy="write key=value, as in c=0.1"
            )
        if key in found:
            raise WrongUsage(f"{key!r} is set twice", param=option)
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def coefficient(text: str) -> float | None:
    """`text` as a coefficient, or None if it is not a number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def steering(words: Iterable[str]) -> dict[str, float | None]:
    """`cheerful 1.5 formal` or `cheerful=1.5 formal` as coefficients by id; None for the vector's
    own. Raises `WrongUsage`."""
    found: dict[str, float | None] = {}
    last: str | None = None
    for word in " ".join(words).replace("=", " ").split():
        value = coefficient(word)
        # A number behind a name is its coefficient; elsewhere it is a name.
        if value is not None and last is not None:
            found[last], last = value, None
            continue
        if word in found:
            raise WrongUsage(f"{word!r} is named twice", param="steer")
        if value is not None or word.lower() in ("nan", "inf", "-inf", "infinity", "-infinity"):
            raise WrongUsage(
                f"{word} stands where a vector's name should",
                param="steer",
                remedy="write names and numbers in turn, as in cheerful 1.5 formal -0.5",
            )
        found[word], last = None, word
    return found
