"""The interface of a measure, and measures of the text alone."""

import importlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from steersman.client.errors import WrongUsage
from steersman.client.sweep.ask import Answer

Tokenize = Callable[[str], Awaitable[list[int]]]


class Measure(Protocol):
    """A behaviour as a number, which is larger the more of the behaviour an answer shows."""

    @property
    def label(self) -> str:
        """Name of the measure for tables and axes."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """Fields that a request for an answer also needs; read after `prepare`."""

    async def prepare(self, tokenize: Tokenize) -> None:
        """Called once, before the first answer. `tokenize`: the server's tokenizer."""

    async def of(self, answer: Answer) -> float | None:
        """The number for `answer`; None if it has none."""

    async def close(self) -> None:
        """Called once, after the last."""


@dataclass(frozen=True)
class TextMeasure:
    """A measure that needs only the text."""

    label: str
    function: Callable[[str], float]
    fields: Mapping[str, Any] = field(default_factory=dict)

    async def prepare(self, tokenize: Tokenize) -> None:
        """Nothing to prepare."""

    async def of(self, answer: Answer) -> float | None:
        return self.function(answer.text)

    async def close(self) -> None:
        """Nothing to close."""


def needed(module: str, package: str, why: str) -> Any:
    """Import an optional module. Raises `WrongUsage` with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WrongUsage(
            f"{why} needs {package}, which is not installed",
            remedy=f"pip install {package}, or all that measures need: pip install '.[measure]'",
        ) from error


def no_argument(name: str, argument: str) -> None:
    """Raise `WrongUsage` if there is an argument."""
    if argument:
        raise WrongUsage(f"{name} takes no argument, not {argument!r}", param="--measure")
