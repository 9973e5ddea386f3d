"""Texts as tokens, and which of the tokens are read."""

import re
from dataclasses import dataclass
from typing import Any, Final

from steersman.server.extraction.request import MAX_LABEL, ExtractRequest, Row, is_unicode
from steersman.vectors.errors import VectorInvalid, shown

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
    row: int = 0
    """Where it came from, counted from 1."""
    asks: bool = False
    """Whether it is a chat that ends with a question, at which the template opens an answer."""


class BadRow(ValueError):
    """A text that cannot be read; the message says why."""


class Reader:
    """Turns texts into examples by one request's rules."""

    def __init__(
        self,
        request: ExtractRequest,
        tokenizer: Any,
        most_tokens: int,
        chat_template: str | None = None,
    ) -> None:
        """`most_tokens`: of one text, so that the engine can answer with a token at least.
        `chat_template`: the server's; None: the tokenizer's own."""
        self._rule = request.token_rule
        self._prompt = request.prompt
        self._steps = request.steps
        self._tokenizer = tokenizer
        self._how = {} if chat_template is None else {"chat_template": chat_template}
        self._most = most_tokens - (request.steps if self._rule == "steps" else 1)

    def read(self, row: Row) -> Example:
        """Raises `BadRow`."""
        if not row.label:
            raise BadRow(
                "is neither a pair {positive, negative} nor a {text, label} whose label has 1 to "
                f"{MAX_LABEL} characters"
            )
        tokens, response, said = self._tokens(row.text, row.prompt)
        if not response < len(tokens):
            raise BadRow("has no tokens to read")
        if len(tokens) > self._most:
            raise BadRow(f"has {len(tokens)} tokens, at most {self._most} fit this server")
        end = len(tokens)
        start, stop = {
            "last": (end - 1, end),
            "answer": (end - 2, end - 1),
            "mean": (response, end),
            "steps": (end - 1, end - 1 + self._steps),
        }[self._rule]
        if self._rule == "answer" and (start < response or not _ANSWER.search(said)):
            raise BadRow("has no answer in brackets, as in (A), at its end")
        asks = isinstance(row.text, list) and not said
        return Example(row.pair, row.label, tuple(tokens), start, stop, row.number, asks)

    def check_template(self) -> None:
        """Raise `VectorInvalid` if there is no chat template that takes a question."""
        try:
            self._template([{"role": "user", "content": "Hello."}])
        except BadRow as error:
            raise VectorInvalid(
                f"these texts need a chat template, and this model's {error}: send plain texts "
                "without a prompt, or start the server with --chat-template FILE",
                param="prompt" if self._prompt is not None else "pairs",
                code="no_chat_template",
            ) from None

    def _tokens(self, text: Any, prompt: Any) -> tuple[list[int], int, str]:
        """The tokens, the index of the response's first, and the response. Of a raw text the index
        is that of the second: the first token of a sequence carries massive activations."""
        prompt = self._prompt if prompt is None else prompt
        if isinstance(text, str):
            if not text.strip():
                raise BadRow("is empty")
            if prompt is None:
                return self._ids(text), 1, text
            if not isinstance(prompt, str):
                raise BadRow("has a prompt that is not a string")
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
            raise BadRow(f"does not go into the chat template: {said}") from error
        return self._ids(text, add_special_tokens=False)

    def _ids(self, text: str, **how: bool) -> list[int]:
        if not is_unicode(text):
            raise BadRow("holds half of a surrogate pair, which is no character")
        return list(self._tokenizer(text, **how).input_ids)


def _messages(text: Any) -> list[dict[str, str]]:
    if not isinstance(text, list) or not text:
        raise BadRow("is neither a string nor a list of messages")
    for message in text:
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("role"), str)
            or not isinstance(message.get("content"), str)
        ):
            raise BadRow("has a message without a role and a content, both strings")
    return text
