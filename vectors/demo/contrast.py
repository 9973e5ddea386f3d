"""The contrast texts: for each demo vector, two lists of sentences written for this project.

Line i of one side says much the same as line i of the other, so that the difference of the means
is the style, not the subject.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from steersman.vectors.errors import DemoError


@dataclass(frozen=True)
class Contrast:
    """One property, and sentences that have it (`positive`) and that have its opposite."""

    name: str
    description: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@cache
def contrasts() -> dict[str, Contrast]:
    """Every contrast shipped with the package, by name, in alphabetical order."""
    folder = resources.files("steersman.vectors.demo") / "texts"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".json"):
            name = file.name.removesuffix(".json")
            found[name] = _parse(name, file.read_text(encoding="utf-8"))
    if not found:
        raise DemoError("the package has no contrast texts: reinstall steersman")
    return found


def _parse(name: str, text: str) -> Contrast:
    try:
        given = json.loads(text)
        contrast = Contrast(
            name=name,
            description=given["description"],
            positive=tuple(pair[0] for pair in given["pairs"]),
            negative=tuple(pair[1] for pair in given["pairs"]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DemoError(f"texts/{name}.json is broken ({error!r}): reinstall steersman") from error
    return contrast
