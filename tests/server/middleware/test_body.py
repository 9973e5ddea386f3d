"""Bodies: their shape, found in pieces of any size, and what they say."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.server.middleware import body_shape
from steersman.server.middleware.body import BodyInvalid, Bounds, places, read
from tests.support.server.pauses import longest_pause

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(alphabet='a"\\[]{}:,é0', max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(alphabet='k"\\{:', max_size=4), inner, max_size=4),
    ),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


@given(value=VALUES, piece=st.sampled_from([1, 2, 3, 7, 1000]), escaped=st.booleans())
def test_the_shape_of_any_text_in_any_pieces(value: Any, piece: int, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped).encode()
    shape = body_shape.Shape()
    for start in range(0, len(text), piece):
        shape.feed(text[start : start + piece])
    everything = [part for _, part in places(value)]
    held = [part for part in everything if isinstance(part, dict | list)]
    assert shape.containers == len(held)
    assert shape.keys == sum(len(part) for part in held if isinstance(part, dict))
    assert shape.values == sum(max(0, len(part) - 1) for part in held)
    assert shape.deepest == depth(value)


@pytest.mark.parametrize("piece", [1, 100, 399, 400, 401, 10_000])
@pytest.mark.parametrize(("digits", "long"), [(399, False), (400, True), (5000, True)])
def test_long_numbers_are_seen_across_pieces(piece: int, digits: int, long: bool) -> None:
    text = b"[1, " + b"7" * digits + b", 2]"
    shape = body_shape.Shape()
    for start in range(0, len(text), piece):
        shape.feed(text[start : start + piece])
    assert shape.long_number == long


@given(value=VALUES)
def test_what_is_read_is_what_was_written(value: Any) -> None:
    assert read(json.dumps(value).encode(), Bounds()) == value


def test_a_path_names_the_place() -> None:
    with pytest.raises(BodyInvalid) as refused:
        read(b'{"a": [1, {"b": NaN}]}', Bounds())
    assert refused.value.param == "a[1].b"
    # The field names its keys itself.
    assert "steering" in read(b'{"steering": {"vectors": {"a": NaN}}}', Bounds())


def test_digits_in_a_text_are_no_number() -> None:
    assert read(b'"' + b"1" * 5000 + b'"', Bounds()) == "1" * 5000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (64 << 20),
        b"[" + b"[]," * (20 << 20) + b"1]",
        b'"' + b"\\\\" * (8 << 20) + b'"',
        b'"' + b"a b " * (16 << 20) + b'"',
        b"[" + b"12345," * 1_000_000 + b"1]",
    ],
    ids=["depth", "lists", "escapes", "text", "tokens"],
)
def test_other_threads_go_on_meanwhile(body: bytes) -> None:
    """With a generous margin: the machines are shared. Parsing it in one go would take seconds."""
    with longest_pause() as pause, contextlib.suppress(BodyInvalid):
        read(body, Bounds())
    assert pause() < 2
