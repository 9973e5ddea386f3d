"""Measures of an answer. Each module has one measure, which gives a number; `--measure
name[:argument]`."""

from collections.abc import Callable
from typing import Final

from steersman.client.errors import WrongUsage
from steersman.client.sweep.measures.judge import judge
from steersman.client.sweep.measures.language import language
from steersman.client.sweep.measures.logodds import log_odds
from steersman.client.sweep.measures.measure import Measure
from steersman.client.sweep.measures.regex import regex
from steersman.client.sweep.measures.vader import vader

__all__ = ["MEASURES", "Measure", "make_measure"]

MEASURES: Final[dict[str, Callable[[str], Measure]]] = {
    "vader": vader,
    "language": language,
    "regex": regex,
    "logodds": log_odds,
    "judge": judge,
}
"""From the argument behind the colon, "" if there is none."""


def make_measure(text: str) -> Measure:
    """The measure for `name[:argument]`. Raises `WrongUsage`."""
    name, _, argument = text.partition(":")
    if name not in MEASURES:
        raise WrongUsage(
            f"there is no measure {name!r}; there are {', '.join(MEASURES)}", param="--measure"
        )
    return MEASURES[name](argument)
