"""Each measure on texts where the number is known."""

import asyncio
import math
import sys

import pytest

from steersman.client.errors import WrongUsage
from steersman.client.sweep.ask import Answer
from steersman.client.sweep.measures import MEASURES, make_measure
from steersman.client.sweep.measures.judge import parse_grade

FRENCH = "Le train est arrivé en retard ce matin, et tout le monde attendait sur le quai."
CHINESE = "我们在学校里学习中文。"
ENGLISH = "The train was late this morning, and everybody was waiting on the platform."


def measured(name: str, text: str, **fields: object) -> float | None:
    return asyncio.run(make_measure(name).of(Answer("p", text, **fields)))  # type: ignore[arg-type]


def test_vader() -> None:
    good, bad = measured("vader", "What a wonderful day!"), measured("vader", "This is horrible.")
    assert good is not None
    assert bad is not None
    assert good > 0.5
    assert bad < -0.4
    assert measured("vader", "") == 0


def test_language() -> None:
    french = measured("language:fr", FRENCH)
    assert french == pytest.approx(1, abs=1e-3)
    assert measured("language:fr", ENGLISH) == 0
    assert measured("language:zh", CHINESE) == pytest.approx(1, abs=1e-3)
    assert measured("language:fr", "12 + 34") == 0


def test_language_gives_the_same_number_again() -> None:
    mixed = "The train. Le train arrive. Der Zug kommt."
    assert len({measured("language:fr", mixed) for _ in range(5)}) == 1


def test_regex_counts_per_hundred_words() -> None:
    assert measured("regex:[A-Z]{2,}", "WE are HERE now") == 50
    assert measured("regex:(?i)we|here", "We are HERE now: here.") == 60
    assert measured("regex:a:b", "a:b c") == 50
    assert measured("regex:x", "") == 0


async def tokens_of(text: str) -> list[int]:
    return {"Yes": [5], " Yes": [6, 9], "No": [7], "Yesterday": [5, 8]}[text]


def test_log_odds_are_of_the_first_tokens() -> None:
    measure = make_measure('logodds:" Yes","No"')
    asyncio.run(measure.prepare(tokens_of))
    assert measure.fields["logprob_token_ids"] == [6, 7]
    answer = Answer("p", "t", first={6: math.log(0.6), 7: math.log(0.2), 1: -0.1})
    assert asyncio.run(measure.of(answer)) == pytest.approx(math.log(3))
    assert asyncio.run(measure.of(Answer("p", "t", first={6: -1.0}))) is None


def test_log_odds_of_answers_that_begin_alike() -> None:
    with pytest.raises(WrongUsage, match="same token"):
        asyncio.run(make_measure('logodds:"Yes","Yesterday"').prepare(tokens_of))


@pytest.mark.parametrize(
    ("text", "grade"),
    [("7", 7.0), (" 10\n", 10.0), ("0.5", 0.5), ("10.0", 10.0)],
)
def test_a_grade_is_a_number_alone(text: str, grade: float) -> None:
    assert parse_grade(text) == grade


@pytest.mark.parametrize(
    "text", ["", "8/10", "about 7", "11", "-1", "10.5", "7.", "7 8", "٧", "1e1"]
)
def test_whatever_else_is_none(text: str) -> None:
    assert parse_grade(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "vader:x",
        "language",
        "language:xx",
        "regex",
        "regex:(",
        "regex:a*",
        "logodds",
        'logodds:"Yes"',
        'logodds:"Yes",',
        'logodds:"Yes","No","?"',
        "judge",
        "judge:http://x|model",
        "judge:x|model|question?",
    ],
)
def test_what_is_no_measure_is_refused(text: str) -> None:
    with pytest.raises(WrongUsage):
        make_measure(text)


@pytest.mark.parametrize(
    ("measure", "module"),
    [("vader", "vaderSentiment.vaderSentiment"), ("language:fr", "langdetect")],
)
def test_what_is_not_installed_is_said(
    measure: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in sys.modules makes the import fail as if it were not there.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WrongUsage) as raised:
        make_measure(measure)
    assert "[measure]" in (raised.value.remedy or "")


def test_the_registry() -> None:
    assert list(MEASURES) == ["vader", "language", "regex", "logodds", "judge"]
