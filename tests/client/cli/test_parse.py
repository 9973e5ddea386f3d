import pytest

from steersman.client.cli import parse, show
from steersman.client.errors import WrongUsage


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("8-11,25", [8, 9, 10, 11, 25]), ("3", [3]), (" 2 , 1-2", [1, 2]), ("0-0", [0])],
)
def test_layers_are_read_and_written(text: str, numbers: list[int]) -> None:
    assert parse.layers(text) == numbers
    assert parse.layers(show.layers(numbers)) == numbers


@pytest.mark.parametrize("text", ["", "8-", "-3", "9-8", "1,,2", "a", "1-2-3", "99999", "1.5"])
def test_layers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        parse.layers(text)
    assert caught.value.param == "--layers"


def test_settings_are_json_where_they_can_be() -> None:
    given = ["c=0.1", "length=unit", "on=true", "e=a=b"]
    assert parse.settings(given) == {"c": 0.1, "length": "unit", "on": True, "e": "a=b"}


@pytest.mark.parametrize("given", [["c"], ["=1"], ["c=1", "c=2"]])
def test_settings_that_are_none_are_refused(given: list[str]) -> None:
    with pytest.raises(WrongUsage):
        parse.settings(given)


@pytest.mark.parametrize(
    ("words", "steering"),
    [
        (["cheerful", "1.5"], {"cheerful": 1.5}),
        (["cheerful=1.5"], {"cheerful": 1.5}),
        (["cheerful 1.5", "formal=-0.5"], {"cheerful": 1.5, "formal": -0.5}),
        (["cheerful"], {"cheerful": None}),
        (["cheerful", "formal", "-1e-1"], {"cheerful": None, "formal": -0.1}),
        (["a@0123456789ab", "+2"], {"a@0123456789ab": 2.0}),
    ],
)
def test_steering_as_it_is_typed(words: list[str], steering: dict[str, float | None]) -> None:
    assert parse.steering(words) == steering


@pytest.mark.parametrize(
    "words", [["1.5"], ["a", "1", "2"], ["a", "nan"], ["a", "inf"], ["a", "1", "a", "2"]]
)
def test_steering_that_cannot_be_meant(words: list[str]) -> None:
    with pytest.raises(WrongUsage):
        parse.steering(words)


def test_a_terminal_is_told_nothing_by_a_model() -> None:
    assert "\x1b" not in show.plain("\x1b]0;title\x07 text\r")
    assert show.plain("line\n\ttab é 日本 🙂") == "line\n\ttab é 日本 🙂"
