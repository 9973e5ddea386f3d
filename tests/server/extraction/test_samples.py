"""Bodies that are all structure: refused before anything is built of them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from steersman.server.extraction.request import read_request
from steersman.server.extraction.samples import count_values, json_lines, lines_of
from steersman.vectors.errors import VectorInvalid
from tests.support.server.pauses import longest_pause

HEAD = b'{"name": "x", "method": "mean_difference", '
MIB = 1 << 20


def filled(opening: bytes, unit: bytes, closing: bytes, size: int = 60 * MIB) -> bytes:
    return opening + unit * (size // len(unit)) + closing


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: filled(HEAD + b'"pairs": [', b"[],", b"[]]}"),
    "objects in one text": lambda: filled(HEAD + b'"positive": [[', b"{},", b"{}]]}"),
    "numbers": lambda: filled(HEAD + b'"negative": [', b"1,", b"1]}"),
    "layers": lambda: filled(HEAD + b'"layers": [', b'"a",', b'"a"]}', 4 * MIB),
    "styles that are no lists": lambda: (
        HEAD + b'"styles": {' + b",".join(b'"%d": 1' % n for n in range(200_000)) + b"}}"
    ),
    "fields that are not there": lambda: (
        HEAD + b",".join(b'"%d": 1' % n for n in range(200_000)) + b"}"
    ),
    "a string that never ends": lambda: filled(HEAD + b'"pairs": ["', b"[],", b""),
    "blanks": lambda: filled(HEAD, b" ", b""),
    "brackets": lambda: b"[" * 60 * MIB,
    "escapes": lambda: filled(HEAD + b'"pairs": ["', b'\\"', b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_and_the_other_threads_go_on(name: str) -> None:
    """What the event loop sees: the longest that a thread which does next to nothing stood still.
    The bound is loose, for machines that are busy; before, it was up to 56 s."""
    body = HOSTILE[name]()
    with longest_pause() as pause, pytest.raises(VectorInvalid):
        read_request(body)
    assert pause() < 3.0


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"1,"])
def test_a_line_of_a_file_that_is_all_structure_is_a_bad_line(unit: bytes) -> None:
    text = {"text": "one", "label": "positive"}
    good, long = json.dumps(text).encode(), b"[" + unit * 10_000_000 + b"1]"
    found = [line for _, line in json_lines(b"\n".join([good, long, good]))]
    assert found == [text, long, text]


def test_many_short_lines_count_together() -> None:
    file = b"[[],[],[],[],[],[],[],[]]\n" * 40_000
    with pytest.raises(VectorInvalid, match="more than"):
        for _ in json_lines(file):
            pass


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": [1, 2, 3], "b": {}}', 6),
        (r'{"a": "[,{\"[,\\", "b": "\\\"[["}', 2),
        ('["half', 1),
        ('["' + "\\\\" * 300_000 + '", [], 1]', 4),
        ('["x' + '\\"' * 300_000 + '", [], 1]', 4),
        ('["' + "x" * 1_000_000 + '", [], 1]', 4),
        ("", 0),
        ("   ", 0),
    ],
)
def test_what_is_counted(text: str, values: int) -> None:
    assert count_values(text.encode(), 100, param="body") == values


def test_texts_may_hold_what_structure_is_made_of() -> None:
    pairs = [['[{",' * 2000, r"\"[" * 2000]] * 4
    body = json.dumps({"name": "x", "method": "repe", "pairs": pairs})
    assert read_request(body, 4).pairs == pairs


def test_long_chats_of_as_many_texts_as_are_allowed() -> None:
    chat = [{"role": "user", "content": "Hello, you."}, {"role": "assistant", "content": "Yes."}]
    body: dict[str, Any] = {"name": "x", "method": "mean_difference"}
    sides = {side: [chat * 10] * 2048 for side in ("positive", "negative")}
    assert len(read_request(json.dumps(body | sides)).positive or ()) == 2048


def test_lines_have_their_numbers_whatever_is_between() -> None:
    assert list(lines_of(b"\n\n a\r\n\n\tb c\n\n")) == [(3, b"a\r"), (5, b"b c")]
    assert list(lines_of(b"\n" * 1_000_000 + b"x")) == [(1_000_001, b"x")]
    assert list(lines_of(b"  \n\t\n")) == []
