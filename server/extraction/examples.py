"""Texts as tokens, and which of the tokens are read."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from steersman.server.extraction.request import ExtractRequest
from steersman.server.extraction.samples import MAX_LABEL, SIDES, Sample, is_unicode
from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.methods.quality import LEAST_MEASURED

SHOWN_A_LABEL: Final = 3
"""Texts a side, or a style, of which the token is shown."""
MOST_LABELS: Final = 8
NEARLY_ALL: Final = 0.9
MOST_BEHIND: Final = 16
_BEFORE: Final = 12
"""Tokens shown before the one that is read."""
_ANSWER: Final = re.compile(r"\([A-Za-z0-9]\)\Z")


@dataclass(frozen=True)
class Example:
    """One text, ready for the engine."""

    pair: tuple[str, int]
    label: str
    tokens: tuple[int, ...]
    start: int
    stop: int
    """Tokens [start, stop) are read; for `steps`, these lie behind the prompt's end."""
    number: int = 0
    """Where it came from, counted from 1."""
    asks: bool = False
    """Whether it is a chat that ends with a question, at which the template opens an answer."""


class BadSample(ValueError):
    """A text that cannot be read; the message says why."""


class Reader:
    """Turns texts into examples by the rules of one request."""

    def __init__(
        self,
        request: ExtractRequest,
        tokenizer: Any,
        most_tokens: int,
        chat_template: str | None = None,
    ) -> None:
        """`most_tokens`: the most tokens of a text, so that the engine can still generate one.
        `chat_template`: the server's; None: the tokenizer's own."""
        self._rule = request.token_rule
        self._prompt = request.prompt
        self._asked = request.how.asks
        self._steps = request.steps
        self._tokenizer = tokenizer
        self._how = {} if chat_template is None else {"chat_template": chat_template}
        self._most = most_tokens - (request.steps if self._rule == "steps" else 1)

    def read(self, sample: Sample) -> Example:
        """The example of one sample. Raises `BadSample`."""
        if not sample.label:
            raise BadSample(
                "is neither a pair {positive, negative} nor a {text, label} whose label has 1 to "
                f"{MAX_LABEL} characters"
            )
        tokens, response, said = self._tokens(sample.text, sample.prompt)
        if not response < len(tokens):
            raise BadSample("has no tokens to read")
        if len(tokens) > self._most:
            raise BadSample(f"has {len(tokens)} tokens, at most {self._most} fit this server")
        end = len(tokens)
        start, stop = {
            "last": (end - 1, end),
            "answer": (end - 2, end - 1),
            "mean": (response, end),
            "steps": (end - 1, end - 1 + self._steps),
            "prompt": (0, end),
            "template": (end - (self._behind if self._has_template else 1), end),
        }[self._rule]
        if self._rule == "answer" and (start < response or not _ANSWER.search(said)):
            raise BadSample("has no answer in brackets, as in (A), at its end")
        if self._rule == "template" and self._has_template and said:
            raise BadSample(
                "ends with an answer, and what is read are the template's tokens behind a question"
            )
        asks = not said
        return Example(sample.pair, sample.label, tuple(tokens), start, stop, sample.number, asks)

    @cached_property
    def _has_template(self) -> bool:
        """Whether there is a chat template that accepts a question."""
        try:
            self.check_template()
        except VectorInvalid:
            return False
        return True

    @cached_property
    def _behind(self) -> int:
        """Number of tokens that the chat template has behind a user's message; of more than
        `MOST_BEHIND`, so many."""
        one, other = (
            self._template([{"role": "user", "content": letter}])[::-1] for letter in "ab"
        )
        same = 0
        while same < min(len(one), len(other)) and one[same] == other[same]:
            same += 1
        return min(max(same, 1), MOST_BEHIND)

    def check_template(self) -> None:
        """Raise `VectorInvalid` if there is no chat template that accepts a question."""
        try:
            self._template([{"role": "user", "content": "Hello."}])
        except BadSample as error:
            raise VectorInvalid(
                f"these texts need a chat template, and this model's {error}: send plain texts "
                "without a prompt, or start the server with --chat-template FILE",
                param="prompt" if self._prompt is not None else "pairs",
                code="no_chat_template",
            ) from None

    def _tokens(self, text: Any, prompt: Any) -> tuple[list[int], int, str]:
        """The tokens, the index of the first token of the response, and the response. In a raw text
        that is the second token, because the first token of a sequence has massive activations."""
        prompt = self._prompt if prompt is None else prompt
        if isinstance(text, str):
            if not text.strip():
                raise BadSample("is empty")
            if prompt is None and self._asked and self._has_template:
                return self._template([{"role": "user", "content": text}]), 1, ""
            if prompt is None:
                return self._ids(text), 1, text
            if not isinstance(prompt, str):
                raise BadSample("has a prompt that is not a string")
            return self._answered([{"role": "user", "content": prompt}], text)
        messages = _messages(text)
        if messages[-1]["role"] == "assistant" and len(messages) > 1:
            return self._answered(messages[:-1], messages[-1]["content"])
        return self._template(messages), 1, ""

    def _answered(self, messages: list[dict[str, str]], answer: str) -> tuple[list[int], int, str]:
        opening = self._template(messages)
        ids = self._ids(answer, add_special_tokens=False)
        return [*opening, *ids], len(opening), answer

    def _template(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._how
            )
        except Exception as error:  # A template raises what it likes, a jinja error mostly.
            said = shown(str(error), 200)
            raise BadSample(f"does not go into the chat template: {said}") from error
        return self._ids(text, add_special_tokens=False)

    def _ids(self, text: str, **how: bool) -> list[int]:
        if not is_unicode(text):
            raise BadSample("holds half of a surrogate pair, which is not a character")
        return list(self._tokenizer(text, **how).input_ids)


def _messages(text: Any) -> list[dict[str, str]]:
    if not isinstance(text, list) or not text:
        raise BadSample("is neither a string nor a list of messages")
    for message in text:
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("role"), str)
            or not isinstance(message.get("content"), str)
        ):
            raise BadSample("has a message without a role and a content, both strings")
    return text


def shown_samples(examples: Sequence[Example], tokenizer: Any) -> list[dict[str, Any]]:
    """The first texts of each side: the tokens that are read, as text, and the text before them."""
    found: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for example in examples:
        counts[example.label] += 1
        if counts[example.label] > SHOWN_A_LABEL or len(counts) > MOST_LABELS:
            continue
        end = len(example.tokens)
        # What is generated is not known yet: the first of its steps is the prompt's last token.
        tokens = example.tokens[example.start : min(example.stop, end)]
        before = example.tokens[max(0, example.start - _BEFORE) : example.start]
        found.append(
            {
                "row": example.number,
                "label": example.label,
                "token": _text(tokenizer, tokens),
                "before": _text(tokenizer, before),
                "tokens": example.stop - example.start,
            }
        )
    return found


def warnings(
    request: ExtractRequest, examples: Sequence[Example], tokenizer: Any
) -> list[dict[str, str]]:
    """What is probably a mistake in the texts, each as a code and a message."""
    found = []
    if said := _same_token(request, examples, tokenizer):
        found.append({"code": "same_token", "message": said})
    if said := _same_texts(examples):
        found.append({"code": "identical_pairs", "message": said})
    counts = Counter(example.label for example in examples)
    if min(counts.values()) < LEAST_MEASURED:
        found.append(
            {
                "code": "few_rows",
                "message": f"there are {min(counts.values())} texts on a side: the vector's "
                f"quality cannot be measured with fewer than {LEAST_MEASURED}",
            }
        )
    return found


def _same_token(request: ExtractRequest, examples: Sequence[Example], tokenizer: Any) -> str | None:
    """The warning for rules that read one token, if that token is nearly always the same on both
    sides. A chat that ends with a question is not checked: it is read at the template's end, which
    is the same by design."""
    if request.token_rule not in ("last", "answer"):
        return None
    read: dict[str, Counter[int]] = defaultdict(Counter)
    for example in examples:
        if not example.asks:
            read[example.label][example.tokens[example.start]] += 1
    if len(read) < 2:
        return None
    tokens = set().union(*read.values())
    alike = {token: min(side[token] / side.total() for side in read.values()) for token in tokens}
    share = sum(alike.values())
    if share < NEARLY_ALL:
        return None
    most = max(alike, key=lambda token: (alike[token], -token))
    remedy = "leave it out of the texts"
    if "mean" in request.how.token_rules:
        remedy += ', or read the mean over all ("tokens": "mean")'
    return (
        f"in {share:.0%} of the texts the token that is read is the same on all sides, mostly "
        f"{shown(_text(tokenizer, (most,)))}: the vector would describe that token more than "
        f"the texts; {remedy}"
    )


def _same_texts(examples: Sequence[Example]) -> str | None:
    """The warning for pairs that have the same text on both sides, if there are any."""
    sides = {side: {e.pair: e.tokens for e in examples if e.label == side} for side in SIDES}
    pairs = sides["positive"].keys() & sides["negative"].keys()
    same = sum(sides["positive"][pair] == sides["negative"][pair] for pair in pairs)
    if not same:
        return None
    return (
        f"{same} of {len(pairs)} pairs have the same text on both sides, which adds nothing to the "
        "vector"
    )


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """`tokens` as text of at most 80 characters, with the middle left out."""
    text = str(tokenizer.decode(list(tokens))) if tokens else ""
    return text if len(text) <= 80 else f"{text[:38]} … {text[-38:]}"
