"""How the seams replace a piece of vLLM: once, and marked."""

import functools
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def wrap(owner: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Replace `owner.name` by `make(original)`. Does nothing where that is done already, because
    vLLM may call a plugin several times. Raises AttributeError if there is no such thing."""
    original = getattr(owner, name)
    if hasattr(original, "__steersman__"):
        return
    wrapper: Any = functools.wraps(original)(make(original))
    wrapper.__steersman__ = True
    setattr(owner, name, wrapper)
