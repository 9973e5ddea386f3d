"""Bounds on what a body may hold, looked at before any parser builds it.

Parsers hold the interpreter's lock while they build what they read: of 60 MiB of empty lists, for a
minute, in whatever thread. What is looked at here is looked at in small bites, and ends at the
bound.
"""

import re
from collections.abc import Iterator
from typing import Final

from steersman.vectors.errors import VectorInvalid

VALUES_A_ROW: Final = 64
"""Values (strings, numbers, lists, objects) that a text may consist of, on average over as many
texts as are allowed: a chat of 20 messages has about so many."""
_BITE: Final = 1 << 18
_MARK: Final = re.compile(rb'[\[{,"]')
_INSIDE: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_LINE: Final = re.compile(rb"[^ \t\r\n][^\n]*")


def count_values(text: bytes, most: int, *, param: str) -> int:
    """About how many JSON values are in `text`: opening brackets and commas outside strings. Raises
    `VectorInvalid` beyond `most`. Of text that is not JSON it counts something."""
    found, at = 0, 0
    while at < len(text):
        mark = _MARK.search(text, at, at + _BITE)
        if mark is None:
            at += _BITE
        elif mark[0] == b'"':
            at = _end_of_string(text, mark.end())
        else:
            at = mark.end()
            found += 1
            if found > most:
                raise too_many_values(most, param)
    return found


def too_many_values(most: int, param: str) -> VectorInvalid:
    """The error of a body that holds more than `most`."""
    return VectorInvalid(
        f"the body holds more than {most} values, far more than the texts that are allowed "
        "consist of (--max-extract-rows): send fewer or shorter chats",
        param=param,
        code="too_many_values",
    )


def lines_of(text: bytes) -> Iterator[tuple[int, bytes]]:
    """(line number, line), those that are blank left out, one after another."""
    number, at = 1, 0
    for line in _LINE.finditer(text):
        number += text.count(b"\n", at, line.start())
        at = line.start()
        yield number, line[0]


def _end_of_string(text: bytes, at: int) -> int:
    """The place behind the quote that ends the string whose text begins at `at`."""
    while at < len(text):
        found = _INSIDE.match(text, at, at + _BITE)
        end = at if found is None else found.end()
        if text[end : end + 1] == b'"':
            return end + 1
        # The bite's end, or a backslash that is its last byte and stands before what it escapes.
        at = end + 2 if text[end : end + 1] == b"\\" else max(end, at + 1)
    return len(text)
