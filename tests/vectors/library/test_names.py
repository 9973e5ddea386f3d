"""Names and ids."""

from typing import Any

import pytest

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.library.names import check_name, parse_id

BAD_NAMES = [
    "", " ", "a b", ".", "..", "...", ".hidden", "-x", "_x", "a/b", "../x", "a..b", "a\\b", "a@b",
    "a\n", "a\0", "caf\u00e9", "\u0661", "\u202etxt", "x" * 129, "x" * 500, "a%2Fb", "a:b",
]  # fmt: skip


@pytest.mark.parametrize("name", ["a", "7", "Cheerful-2.1_b", "x" * 128, "a.b.c", "CON"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name
    assert parse_id(name) == (name, None)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name: Any) -> None:
    with pytest.raises(VectorInvalid) as caught:
        check_name(name)
    assert caught.value.param == "name"
    assert len(caught.value.message) < 300
    with pytest.raises(VectorInvalid):
        parse_id(name)


def test_ids_with_versions() -> None:
    assert parse_id("a@0123456789ab") == ("a", "0123456789ab")
    assert parse_id("a@" + "f" * 64) == ("a", "f" * 64)


@pytest.mark.parametrize(
    "text", ["a@", "a@0123", "a@0123456789aB", "a@" + "f" * 65, "@0123456789ab", "a@b@0123456789ab"]
)
def test_bad_ids(text: str) -> None:
    with pytest.raises(VectorInvalid) as caught:
        parse_id(text)
    assert caught.value.param == "id"
