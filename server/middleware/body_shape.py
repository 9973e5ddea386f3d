"""Counts the lists, objects, keys and values of a JSON text, and their depth, before it is parsed.

It works in pieces and in linear time, whatever the text is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

PIECE: Final = 256 << 10
"""Bytes looked at in one go. The event loop runs between two of them."""
LONG_NUMBER: Final = 400
"""Digits in a row that no number needs."""

_OPEN, _CLOSE, _COLON, _COMMA, _DIGIT = 1, 2, 3, 4, 9
_KINDS: Final = np.zeros(256, np.uint8)
for _chars, _kind in ((b"[{", _OPEN), (b"]}", _CLOSE), (b":", _COLON), (b",", _COMMA)):
    _KINDS[list(_chars)] = _kind
_KINDS[list(b"0123456789")] = _DIGIT
_QUOTE, _BACKSLASH = ord('"'), ord("\\")


@dataclass
class Shape:
    """Counts, outside of strings, of the text so far. After the first fault of a text that is not
    JSON they may be wrong."""

    containers: int = 0
    """Lists and objects."""
    keys: int = 0
    values: int = 0
    """Members of lists and objects, but for the last of each."""
    deepest: int = 0
    """Most lists and objects around one place."""
    long_number: bool = False
    """Whether there are `LONG_NUMBER` digits in a row, be it in a string."""

    _depth: int = 0
    _in_string: bool = False
    _backslashes: int = 0
    _digits: int = 0

    def feed(self, piece: bytes) -> None:
        """Count the next piece of the text."""
        text = np.frombuffer(piece, np.uint8)
        quotes = self._quotes(text, piece)
        kinds = _KINDS[text]
        self._see_digits(kinds)
        places = np.flatnonzero((kinds != 0) & (kinds != _DIGIT))
        inside = (np.searchsorted(quotes, places) + self._in_string) % 2
        found = kinds[places[inside == 0]]
        steps = np.where(found == _OPEN, 1, np.where(found == _CLOSE, -1, 0)).cumsum()
        counts = np.bincount(found, minlength=5)
        self.containers += int(counts[_OPEN])
        self.keys += int(counts[_COLON])
        self.values += int(counts[_COMMA])
        if steps.size:
            self.deepest = max(self.deepest, self._depth + int(steps.max()))
            self._depth += int(steps[-1])
        self._in_string = bool((self._in_string + quotes.size) % 2)

    def _quotes(self, text: Any, piece: bytes) -> Any:
        """Positions of the quotation marks that begin and end strings: those behind an even number
        of backslashes."""
        quotes = np.flatnonzero(text == _QUOTE)
        if not self._backslashes and _BACKSLASH not in piece:
            return quotes
        places = np.arange(text.size)
        other = np.maximum.accumulate(np.where(text == _BACKSLASH, -1, places))
        before = np.concatenate(([-1], other))
        runs = places - 1 - before[:-1]
        runs[before[:-1] == -1] += self._backslashes
        last = int(other[-1]) if other.size else -1
        trailing = text.size - 1 - last
        self._backslashes = trailing + (self._backslashes if last == -1 else 0)
        return quotes[runs[quotes] % 2 == 0]

    def _see_digits(self, kinds: Any) -> None:
        others = np.flatnonzero(kinds != _DIGIT)
        if not others.size:
            self._digits += kinds.size
            self.long_number |= self._digits >= LONG_NUMBER
            return
        longest = max(self._digits + int(others[0]), int(np.diff(others).max(initial=1)) - 1)
        self.long_number |= longest >= LONG_NUMBER
        self._digits = kinds.size - 1 - int(others[-1])


def shapes(body: bytes) -> Iterator[Shape]:
    """The shape of `body` so far, after each piece."""
    shape = Shape()
    for start in range(0, len(body), PIECE):
        shape.feed(body[start : start + PIECE])
        yield shape
