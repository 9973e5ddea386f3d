"""Model names that steer, taken apart."""

from typing import Any

import pytest

from steersman.server.presets.model_name import short_form, split, unknown
from steersman.steering.plan import PlanInvalid

SERVED = {"base", "org/base", "adapter:1", "base:chat"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("base:sunny", ("base", "sunny")),
        ("org/base:cheerful@1.5,formal@-0.5", ("org/base", "cheerful@1.5,formal@-0.5")),
        ("adapter:1:sunny", ("adapter:1", "sunny")),
        ("base:chat:sunny", ("base:chat", "sunny")),
        ("base:chatty", ("base", "chatty")),
        ("base:", ("base", "")),
        # What is served is served.
        ("base", None),
        ("base:chat", None),
        ("adapter:1", None),
        # What is not is for vLLM to refuse.
        ("nobody:sunny", None),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_the_longest_served_name_is_the_base(name: Any, parts: tuple[str, str] | None) -> None:
    assert split(name, SERVED) == parts


def test_vectors_with_their_coefficients() -> None:
    digits = "0123456789ab"
    said = f"cheerful@1.5, formal@-0.5,plain,versioned@{digits}@2e-1"
    assert short_form(said) == {
        "vectors": [
            {"id": "cheerful", "coefficient": 1.5},
            {"id": "formal", "coefficient": -0.5},
            {"id": "plain"},
            {"id": f"versioned@{digits}", "coefficient": 0.2},
        ]
    }


@pytest.mark.parametrize(
    "suffix",
    ["", ",", "a,,b", "@1", "a@", "a@b", "a@1@x", "a@nan", "a@inf", "a@0x1", "a@1_000", "a" * 9000],
)
def test_what_cannot_be_read_is_refused_with_the_form(suffix: str) -> None:
    with pytest.raises(PlanInvalid, match=r"cheerful@1\.5,formal@-0\.5") as refused:
        short_form(suffix)
    assert (refused.value.param, refused.value.code) == ("model", "invalid_model_name")


def test_what_is_near_is_named() -> None:
    said = str(unknown("base:cheerfull", "cheerfull", ["sunny"], ["cheerful", "gloomy"]))
    assert "near it are cheerful." in said
    assert "gloomy" not in said
