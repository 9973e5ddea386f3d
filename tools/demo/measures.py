"""What each demo vector is judged by: 16 neutral prompts, and a number for each answer.

Word lists that share words with the contrast texts would partly measure these texts: the `space`
lists have only words that occur in none of its texts, and a test checks that. The others count
marks and function words, which no text on the subject can avoid.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

PROMPTS = (
    "Describe a typical morning in a small town.",
    "Tell me about a walk in the park.",
    "Write a few sentences about a train journey.",
    "What happened at the office today?",
    "Describe a family gathering.",
    "Tell me about the weather this week.",
    "Write a short paragraph about a school.",
    "What do you think about the new neighbour?",
    "Describe a visit to a museum.",
    "Tell me about your weekend.",
    "Write a few sentences about an old house.",
    "How did the meeting go?",
    "Describe a street market.",
    "Tell me about a book you read.",
    "Write a short paragraph about a river.",
    "What is it like to live by the sea?",
)

_WORD = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)*")


def _lexicon(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


SPACE_WORDS = _lexicon(
    "space universe universes planet planets planetary galaxy galaxies galactic cosmos cosmic "
    "astronaut astronauts astronomy astronomer astronomers astronomical interstellar celestial "
    "stellar earth extraterrestrial nasa constellation constellations star stars exoplanet "
    "exoplanets"
)
KITCHEN_WORDS = _lexicon(
    "food foods meal meals dish delicious flavor flavors flavour flavours aroma aromas "
    "taste tastes tasty recipe recipes cuisine restaurant restaurants breakfast lunch dinner "
    "supper coffee kitchen kitchens cooking ingredients savory savoury fruit fruits vegetables "
    "snack snacks dessert pizza meat"
)
FIRST_PERSON = _lexicon("i me my mine myself i'm i've i'd i'll")
PAST_WORDS = _lexicon(
    "was were had did went came saw made took got said told felt knew found gave left sat stood "
    "began ran heard kept brought thought met became spent woke wore fell grew led held wrote "
    "wasn't weren't hadn't didn't"
)
PRESENT_WORDS = _lexicon(
    "is are am has have do does goes comes makes takes gets says tells feels knows finds gives "
    "leaves sits stands begins runs hears keeps brings thinks meets becomes spends wakes wears "
    "falls grows leads holds writes can will isn't aren't don't doesn't i'm it's there's that's "
    "you're they're we're i've"
)


@dataclass(frozen=True)
class Measure:
    """A measure of a property. `of(text)` is larger the more of the property `text` shows; `label`
    is its name in plots."""

    label: str
    of: Callable[[str], float]
    # Least difference of the means at coefficients +1.5 and -1.5 that counts as working.
    least_shift: float


def words(text: str) -> list[str]:
    """Lower-case words with plain apostrophes."""
    return [word.lower().replace("\u2019", "'") for word in _WORD.findall(text)]


def share(text: str, lexicon: frozenset[str]) -> float:
    """Words of `text` in `lexicon`, per 100 words."""
    found = words(text)
    return 100 * sum(word in lexicon for word in found) / max(1, len(found))


def sentiment(text: str) -> float:
    """VADER's compound score, -1 to 1 (Hutto and Gilbert, 2014)."""
    return float(_vader().polarity_scores(text)["compound"])


def word_length(text: str) -> float:
    """Mean letters a word: formal English has longer words."""
    found = words(text)
    return sum(len(word) for word in found) / max(1, len(found))


def past_share(text: str) -> float:
    """Share of past forms among the verb forms that the lists and the ending -ed recognise; 0.5 if
    there are none."""
    found = words(text)
    past = sum(word in PAST_WORDS or (word.endswith("ed") and len(word) > 4) for word in found)
    present = sum(word in PRESENT_WORDS for word in found)
    return past / (past + present) if past + present else 0.5


def question_share(text: str) -> float:
    """Sentences that end with a question mark, among all that end."""
    ends = re.findall(r"[.!?]+", text)
    return sum("?" in end for end in ends) / len(ends) if ends else 0.0


def capital_share(text: str) -> float:
    """Share of words all in capitals, among words of four letters or more, so that USA does not
    count as shouting."""
    found = [word for word in _WORD.findall(text) if len(word) >= 4]
    capital: int = sum(word.isupper() for word in found)
    return capital / max(1, len(found))


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


MEASURES = {
    "cheerful": Measure("VADER compound", sentiment, 1.0),
    "first_person": Measure("I, me, my / 100 words", lambda text: share(text, FIRST_PERSON), 5.0),
    "formal": Measure("letters a word", word_length, 0.8),
    "past": Measure("past verb forms", past_share, 0.4),
    "questions": Measure("questions / sentences", question_share, 0.4),
    "shouting": Measure("words in capitals", capital_share, 0.3),
    "space": Measure(
        "space - kitchen words / 100",
        lambda text: share(text, SPACE_WORDS) - share(text, KITCHEN_WORDS),
        4.0,
    ),
}


def repetition(text: str) -> float:
    """Share of three-word runs that occurred before in `text`. Perplexity does not show such
    loops."""
    found = words(text)
    runs = [tuple(found[i : i + 3]) for i in range(len(found) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
