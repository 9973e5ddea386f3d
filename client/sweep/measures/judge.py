"""A judge: another model, behind any OpenAI-compatible endpoint, that grades from 0 to 10.

The judge reads the text that the judged model wrote, which may try to influence it. Look at the
texts in the JSON before you trust its numbers.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from steersman.client.errors import Refused, WrongUsage
from steersman.client.sweep.ask import Answer
from steersman.client.sweep.http import connect, post
from steersman.client.sweep.measures.measure import Measure, Tokenize

KEY: Final = "STEERSMAN_JUDGE_API_KEY"
"""The judge's key, from the environment. Never the server's key: the judge is another service."""
TRIES: Final = 2
_SYSTEM: Final = (
    "You grade one answer by one question. Reply with a single number from 0 (not at all) to 10 "
    "(entirely), and nothing else."
)
_NUMBER: Final = re.compile(r"10(?:\.0+)?|[0-9](?:\.[0-9]+)?", re.ASCII)


def parse_grade(text: str) -> float | None:
    """A number from 0 to 10 that stands alone; None for anything else, such as "8/10" or "about
    7"."""
    found = _NUMBER.fullmatch(text.strip())
    return float(found[0]) if found else None


class Judge:
    """Sends `question` about every answer to the judge."""

    def __init__(self, url: str, model: str, question: str) -> None:
        self._url, self._model, self._question = url, model, question
        self._http: httpx.AsyncClient | None = None
        self.label = f"{model}, 0 to 10: {question}"
        self.fields: Mapping[str, Any] = {}

    async def prepare(self, tokenize: Tokenize) -> None:
        """Open the connection."""
        self._http = connect(self._url.rstrip("/"), os.environ.get(KEY))

    async def of(self, answer: Answer) -> float | None:
        """The grade; None if the judge gives no number twice."""
        assert self._http is not None
        body = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": self._text(answer)},
            ],
            "temperature": 0,
            "max_tokens": 8,
        }
        for _ in range(TRIES):
            said = await post(self._http, "/chat/completions", body)
            try:
                grade = parse_grade(said["choices"][0]["message"]["content"] or "")
            except (KeyError, IndexError, TypeError, AttributeError):
                raise Refused("the judge's answer is not a chat completion") from None
            if grade is not None:
                return grade
        return None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    def _text(self, answer: Answer) -> str:
        return (
            f"Question: {self._question}\n\nThe answer was given to:\n{answer.prompt}\n\n"
            f"The answer:\n{answer.text}\n\nYour number:"
        )


def judge(argument: str) -> Measure:
    """`URL|model|question`; the URL in the form of OpenAI's clients, with its /v1."""
    parts = [part.strip() for part in argument.split("|", 2)]
    if len(parts) != 3 or not all(parts) or not parts[0].startswith(("http://", "https://")):
        raise WrongUsage(
            "a judge is judge:URL|model|question, as in "
            "'judge:http://127.0.0.1:8001/v1|qwen|Is the answer polite?'",
            param="--measure",
        )
    return Judge(*parts)
