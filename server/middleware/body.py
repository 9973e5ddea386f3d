"""A JSON body, read once: `refuse_ignored` checks the value, and the route gets the same value."""

import codecs
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from steersman.server.middleware.body_shape import LONG_NUMBER, PIECE, Shape, shapes
from steersman.steering.plan.intent import join
from steersman.vectors.errors import SteersmanError, shown

KEYS_EACH: Final = 10
"""Keys that a body may have for each list or object that it may have."""
_LONGEST_PATH: Final = 200


class BodyInvalid(SteersmanError):
    """A body that is not JSON, or that is ambiguous."""

    default_code = "invalid_json"


@dataclass(frozen=True)
class Bounds:
    """How much structure a body may have."""

    containers: int = 10_000
    """Lists and objects."""
    depth: int = 100
    values: int = 1_200_000
    """Members of lists and objects together: a token of a prompt is one."""
    items: int = 1000
    """Members of a response's `input`, or of a batch's `messages`."""

    def times(self, factor: int) -> Self:
        """These bounds multiplied by `factor`, except the depth."""
        return type(self)(self.containers * factor, self.depth, self.values)

    def check(self, shape: Shape) -> None:
        """Raise `BodyInvalid`, with the name of the option, for a shape over a bound."""
        for what, found, most, option in (
            ("lists and objects", shape.containers, self.containers, "--max-body-containers"),
            ("keys", shape.keys, self.containers * KEYS_EACH, "--max-body-containers"),
            ("lists and objects inside one another", shape.deepest, self.depth, "--max-body-depth"),
            ("values", shape.values, self.values, "--max-body-values"),
        ):
            if found > most:
                raise BodyInvalid(
                    f"the body has more than {most} {what}; send less, or raise the limit with "
                    f"{option}",
                    param="body",
                    code="body_too_complex",
                )


def read(body: bytes, bounds: Bounds) -> Any:
    """Parse `body`. Takes time in proportion to its length, up to some seconds, and holds the
    interpreter's lock for a small part of a second at a time.

    Raises `BodyInvalid` for text that is not JSON in UTF-8, for a key that an object has twice, for
    NaN, for numbers of `LONG_NUMBER` digits, and for more structure than `bounds` allow.
    """
    shape = Shape()
    for shape in shapes(body):
        bounds.check(shape)
    long = _short if shape.long_number else None
    text = _text(body)
    found: list[str] = []

    def constant(name: str) -> float:
        found.append(name)
        return float(name)

    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=constant,
            parse_int=long and (lambda digits: int(long(digits))),
            parse_float=long and (lambda digits: float(long(digits))),
        )
    except json.JSONDecodeError as error:
        raise BodyInvalid(
            f"the body is not JSON: {error.msg} at character {error.pos}", param="body"
        ) from None
    if found:
        _refuse_constants(value, found[0])
    if b"\\ud" in body or b"\\uD" in body:
        _refuse_halves(value)
    return value


def places(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside `value` with its path, as in `messages[0].content`."""
    waiting: list[tuple[str, Any]] = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if isinstance(value, dict):
            waiting += [(join(path, key), part) for key, part in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{n}]", part) for n, part in enumerate(value)]


def _text(body: bytes) -> str:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    pieces = (body[start : start + PIECE] for start in range(0, len(body), PIECE))
    try:
        return "".join([decoder.decode(piece) for piece in pieces]) + decoder.decode(b"", True)
    except UnicodeDecodeError:
        raise BodyInvalid("the body is not UTF-8; send JSON in UTF-8", param="body") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BodyInvalid(
                    f"an object of the body has the key {shown(key)} twice; send it once",
                    param=key[:_LONGEST_PATH],
                    code="duplicate_key",
                )
            seen.add(key)
    return made


def _short(digits: str) -> str:
    if len(digits) >= LONG_NUMBER:
        raise BodyInvalid(
            f"the body has a number of {len(digits)} characters; send a shorter one", param="body"
        )
    return digits


def _refuse_constants(value: Any, name: str) -> None:
    """Raise for NaN and infinities, which JSON does not have. Inside the `steering` field they are
    left to the field's own check, which names the key in the form that the client used."""
    for path, part in places(value):
        if isinstance(part, float) and not math.isfinite(part) and not path.startswith("steering"):
            raise BodyInvalid(f"{path}: {name} is not JSON; send a finite number", param=path)


def _refuse_halves(value: Any) -> None:
    """Raise for half of a surrogate pair: it is not a character, and cannot be sent back in an
    answer."""
    for path, part in places(value):
        for text in (part, *part) if isinstance(part, dict) else (part,):
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise BodyInvalid(
                        f"{shown(path)} has half of a surrogate pair, which is not a text",
                        param=path.encode("ascii", "replace").decode(),
                    ) from None
