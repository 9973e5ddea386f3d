"""Prints one answer while it arrives."""

from dataclasses import dataclass
from typing import Any

import typer

from steersman.client import paths
from steersman.client.cli import show
from steersman.client.errors import Refused
from steersman.client.http import Client


@dataclass(frozen=True)
class Answer:
    """A whole answer, and the receipt of its steering; None if it was not steered."""

    text: str
    finish_reason: str
    receipt: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """One line of `--json`."""
        return {
            "message": {"role": "assistant", "content": self.text},
            "finish_reason": self.finish_reason,
            "steering": self.receipt,
        }


def stream_answer(client: Client, body: dict[str, Any], *, aloud: bool) -> Answer:
    """Request the answer to `body`, a streaming chat completion, and print it while it arrives if
    `aloud`. Raises `Unreachable`, and `Refused`, also for a stream that breaks off and for a
    steered answer without a receipt."""
    text, reason, receipt = "", None, None
    try:
        with client.stream(paths.CHAT, body) as events:
            for event in events:
                receipt = event.get("steering", receipt)
                for choice in event["choices"]:
                    piece = choice["delta"].get("content") or ""
                    reason = choice.get("finish_reason") or reason
                    text += piece
                    if aloud and piece:
                        typer.echo(show.plain(piece), nl=False)
    finally:
        if aloud and text and not text.endswith("\n"):
            typer.echo()
    if reason is None:
        raise Refused("the answer broke off", remedy="ask again", code="cut_off")
    if body.get("steering") and not receipt:
        raise Refused(
            "the answer has no receipt, so it is not known whether it was steered",
            remedy="is this a Steersman server?",
            code="no_receipt",
        )
    return Answer(text, reason, receipt)
