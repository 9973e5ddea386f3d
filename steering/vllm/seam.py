"""What a seam is: a place in vLLM that we rely on, how it is checked, and how it is replaced.

The check finds a thing by its name, with the parameters and attributes that we rely on. It cannot
find that a thing of the same form behaves differently: for that, versions are read one by one
(`unsupported.SUPPORTED_VLLM`) and tried (`make compat`).
"""

import dis
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

Function = Callable[..., Any]


class Seam(NamedTuple):
    """One place where we touch vLLM."""

    ours: str
    """Our module, as a path from the root of the repository."""
    process: str
    """Where it happens, one of `seams.PROCESSES`; it is checked there."""
    target: str
    """`package.module`, or `package.module:attribute.path`."""
    needs: tuple[str, ...]
    """What we use of the target. A function or class that we call: its parameters. An object that
    we read: its attributes (also those that its own methods set). A module: names in it."""
    why: str
    before: str = ""
    """The target in older versions that are supported, where it had another place."""


def wrap(owner: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Replace `owner.name` by `make(original)` and mark it. Does nothing if it is marked already,
    because vLLM may call a plugin several times. Raises AttributeError if `owner` has no such
    attribute."""
    original = getattr(owner, name)
    if hasattr(original, "__steersman__"):
        return
    wrapper: Any = functools.wraps(original)(make(original))
    wrapper.__steersman__ = True
    setattr(owner, name, wrapper)


def lacking(seams: Iterable[Seam]) -> list[str]:
    """One line for each missing seam: "<target> is not there (<our module>: <why>)", or "lacks
    <names>".

    Raises ImportError if vLLM itself cannot be imported.
    """
    lines = []
    for seam in seams:
        missing = _missing(seam)
        if missing:
            lines.append(f"{seam.target} {missing} ({seam.ours}: {seam.why})")
    return lines


def _missing(seam: Seam) -> str:
    missing = _lacks(seam.target, seam.needs)
    return _lacks(seam.before, seam.needs) and missing if missing and seam.before else missing


def _lacks(target: str, needs: tuple[str, ...]) -> str:
    module, _, path = target.partition(":")
    try:
        found: Any = import_module(module)
        for name in path.split(".") if path else ():
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("vllm"):
            raise
        return "is not there"
    except AttributeError:
        return "is not there"
    absent = [name for name in needs if not _has(found, name)]
    return f"lacks {', '.join(absent)}" if absent else ""


def _has(found: Any, name: str) -> bool:
    if isinstance(found, ModuleType):
        return hasattr(found, name)
    if not isinstance(found, type):
        return name in inspect.signature(found).parameters
    return hasattr(found, name) or any(
        name in vars(cls).get("__annotations__", ()) or _sets(cls, name) or _takes(cls, name)
        for cls in found.__mro__
    )


def _takes(cls: type, name: str) -> bool:
    init = vars(cls).get("__init__")
    return isinstance(init, FunctionType) and name in inspect.signature(init).parameters


def _sets(cls: type, name: str) -> bool:
    """Whether a method of `cls` assigns an attribute called `name`."""
    return any(
        instruction.opname == "STORE_ATTR" and instruction.argval == name
        for function in _functions(cls)
        if name in function.__code__.co_names
        for instruction in dis.get_instructions(function)
    )


def _functions(cls: type) -> Iterator[FunctionType]:
    for member in vars(cls).values():
        function = inspect.unwrap(member) if callable(member) else member
        if isinstance(function, FunctionType):
            yield function
