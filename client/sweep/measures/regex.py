"""How often a regular expression matches."""

import re

from steersman.client.errors import WrongUsage
from steersman.client.sweep.measures.measure import Measure, TextMeasure


def regex(argument: str) -> Measure:
    """`PATTERN`, of Python's `re`: matches that do not overlap, per 100 words; `(?i)` ignores case.

    Words are what white space separates; an empty answer has a rate of 0.
    """
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise WrongUsage(
            f"{argument!r} is not a regular expression: {error}", param="--measure"
        ) from error
    if pattern.match("") is not None:
        raise WrongUsage(
            f"regex:{argument} matches nothing at all; write regex:PATTERN", param="--measure"
        )

    def rate(text: str) -> float:
        matches = sum(1 for _ in pattern.finditer(text))
        return 100 * matches / max(1, len(text.split()))

    return TextMeasure(f"/{argument}/ per 100 words", rate)
