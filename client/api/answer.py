"""An answer of the model: whole, or a stream of its pieces."""

from dataclasses import dataclass, field
from typing import Any

from steersman.client.api.types import Receipt
from steersman.client.errors import Refused


@dataclass(frozen=True)
class Answer:
    """A chat completion. `raw` is the server's JSON, or of a stream its last chunk."""

    text: str
    receipt: Receipt | None
    """How it was steered; None: it was not."""
    finish_reason: str | None
    model: str
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> "Answer":
        """The first choice of the server's JSON."""
        choice = raw["choices"][0]
        text = choice["message"]["content"] or ""
        return cls(text, raw.get("steering"), choice["finish_reason"], raw["model"], raw)


class Pieces:
    """Adds up the chunks of a stream."""

    def __init__(self) -> None:
        self._text = ""
        self._reason: str | None = None
        self._receipt: Receipt | None = None
        self._last: dict[str, Any] = {}

    def take(self, chunk: dict[str, Any]) -> str:
        """The text that `chunk` adds."""
        self._last = chunk
        self._receipt = chunk.get("steering", self._receipt)
        added = ""
        for choice in chunk.get("choices") or ():
            added += choice["delta"].get("content") or ""
            self._reason = choice.get("finish_reason") or self._reason
        self._text += added
        return added

    def answer(self, *, steered: bool) -> Answer:
        """The whole answer. Raises `Refused` for a stream that broke off, and for one that was to
        be `steered` and has no receipt."""
        if self._reason is None:
            raise Refused("the answer broke off", remedy="ask again", code="cut_off")
        if steered and not self._receipt:
            raise no_receipt()
        return Answer(
            self._text, self._receipt, self._reason, str(self._last.get("model")), self._last
        )


def no_receipt() -> Refused:
    """The error for a steered answer without a receipt."""
    return Refused(
        "the answer has no receipt, so it is not known whether it was steered",
        remedy="is this a Steersman server?",
        code="no_receipt",
    )
