"""The interface of a measure, and measures of the text alone."""

import importlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from steersman.client.errors import WrongUsage
from steersman.client.sweep.ask import Answer

Tokenize = Callable[[str], Awaitable[list[int]]]


class Measure(Protocol):
    """A behaviour, as a number that is larger the more of it an answer shows."""

    @property
    def label(self) -> str:
        """For tables and axes."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """What a request for an answer needs besides; read after `prepare`."""

    async def prepare(self, tokenize: Tokenize) -> None:
        """Called once, before the first answer; `tokenize` is the server's."""

    async def of(self, answer: Answer) -> float | None:
        """The number, or None where there is none to be had."""

    async def close(self) -> None:
        """Called once, after the last."""


@dataclass(frozen=True)
class TextMeasure:
    """A measure that needs the text alone."""

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
    """An optional module. Raises `WrongUsage`, whose remedy installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WrongUsage(
            f"{why} needs {package}, which is not installed",
            remedy=f"pip install {package}, or all that measures need: pip install '.[measure]'",
        ) from error


def no_argument(name: str, argument: str) -> None:
    """Raise `WrongUsage` if there is one."""
    if argument:
        raise WrongUsage(f"{name} takes no argument, not {argument!r}", param="--measure")
