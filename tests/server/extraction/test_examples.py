"""Which tokens of a text are read, and which texts are not."""

import json
from typing import Any

import pytest

from steersman.server.extraction.examples import BadSample, Example, Reader
from steersman.server.extraction.request import read_request
from steersman.server.extraction.samples import Sample
from tests.support.server.extraction import Tokenizer


def read(text: Any, prompt: Any = None, *, tokenizer: Any = None, **request: Any) -> Example:
    body = {"method": "mean_difference", "name": "x", "pairs": [["a", "b"]], **request}
    reader = Reader(read_request(json.dumps(body)), tokenizer or Tokenizer(), 100)
    return reader.read(Sample(1, ("pair", 1), "positive", text, prompt))


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("text", ["Yes (A)", "(7)", chat("Tea?", "(b)")])
@pytest.mark.parametrize("prompt", [None, "Well?"])
def test_the_answers_letter_is_read(text: Any, prompt: str | None) -> None:
    example = read(text, prompt, method="caa")
    assert example.stop - example.start == 1
    assert chr(example.tokens[example.start]) in "A7b"


@pytest.mark.parametrize("text", ["I love it.", "(A) ", "(A).", "A)", "(AB)", "(A)\n", "( )"])
@pytest.mark.parametrize("prompt", [None, "Well?"])
def test_without_an_answers_letter_nothing_is_read(text: str, prompt: str | None) -> None:
    with pytest.raises(BadSample, match="no answer in brackets"):
        read(text, prompt, method="caa")


def test_a_question_is_no_answer() -> None:
    with pytest.raises(BadSample, match="no answer in brackets"):
        read([{"role": "user", "content": "(A)"}], method="caa")


@pytest.mark.parametrize("tokens", ["last", "mean"])
def test_the_first_token_of_a_raw_text_is_never_read(tokens: str) -> None:
    with pytest.raises(BadSample, match="no tokens to read"):
        read("x", tokens=tokens)
    assert read("xy", tokens=tokens).start == 1
    # Behind a prompt it is not the sequence's first.
    assert read("x", "Well?", tokens=tokens).stop == len("<user>Well?<assistant>x")


def test_nor_at_the_first_step() -> None:
    with pytest.raises(BadSample, match="no tokens to read"):
        read("x", method="per_step")
    assert read("xy", method="per_step", steps=5).start == 1


@pytest.mark.parametrize("text", ["Tea?", [{"role": "user", "content": "Tea?"}]])
def test_of_a_condition_all_of_a_chats_prompt_is_read(text: Any) -> None:
    """Its first token, too: so does the gate."""
    example = read(text, method="cast_condition")
    assert bytes(example.tokens).decode() == "<user>Tea?<assistant>"
    assert (example.start, example.stop) == (0, len(example.tokens))
    assert example.asks
    assert read(text, method="cast_condition", tokens="last").start == len(example.tokens) - 1


def test_of_an_ablation_the_templates_tokens_behind_the_question_are_read() -> None:
    example = read("Tea?", method="directional_ablation")
    assert bytes(example.tokens[example.start :]).decode() == "<assistant>"
    with pytest.raises(BadSample, match="ends with an answer"):
        read(chat("Tea?", "Yes."), method="directional_ablation")
    with pytest.raises(BadSample, match="ends with an answer"):
        read("Yes.", "Tea?", method="directional_ablation")


def test_of_a_condition_without_a_chat_template_the_text_is_read() -> None:
    class Bare(Tokenizer):
        def apply_chat_template(self, *_: Any, **__: Any) -> str:
            raise ValueError("there is no chat template")

    example = read("Tea?", method="cast_condition", tokenizer=Bare())
    assert bytes(example.tokens).decode() == "Tea?"
    assert (example.start, example.stop) == (0, 4)
    last = read("Tea?", method="directional_ablation", tokenizer=Bare())
    assert (last.start, last.stop) == (3, 4)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("half \ud800", None),
        ("half \ud800", "Well?"),
        ("whole", "\udfff?"),
        (chat("\ud800", "whole"), None),
        (chat("whole", "\ud800"), None),
    ],
)
def test_half_a_surrogate_pair_is_one_bad_row(text: Any, prompt: str | None) -> None:
    with pytest.raises(BadSample, match="surrogate"):
        read(text, prompt)


def test_what_a_template_says_is_short_and_can_be_written() -> None:
    with pytest.raises(BadSample, match="unknown role") as caught:
        read([{"role": "\ud800" * 10_000, "content": "x"}])
    assert len(str(caught.value).encode()) < 300
