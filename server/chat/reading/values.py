"""What a request has read, in the form of its receipt and of a stream's chunks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from steersman.server.chat.trace import Answers
from steersman.steering.plan import RECEIPTS
from steersman.steering.plan.wire.readouts import ReadChunk, Readout

By = dict[str, list[float]]
"""Values by layer; by "<site>.<layer>" for a vector of several sites."""


class ReadValues:
    """The values of a request that reads, while its receipt is open."""

    def __init__(
        self,
        receipt: str,
        readouts: Sequence[Readout],
        drafts: Sequence[dict[str, Any]],
        answers: Answers,
    ) -> None:
        """`drafts`: what the receipt says of each readout beside its values."""
        self._receipt = receipt
        self._drafts = drafts
        self._answers = answers
        self._keys = [_keys(readout) for readout in readouts]
        self._values: dict[int | None, list[By]] = {}
        """Of each choice, for each readout."""
        self._taken: dict[str, int] = {}
        """By sequence, how many of its chunks are in `_values`."""

    def whole(self) -> list[dict[str, Any]]:
        """All that was read so far. With several choices, `values` is a list with what each of them
        read."""
        self._take()
        each = [self._of(choice) for choice in range(self._answers.total)]
        return [
            {**draft, "values": each[0][n] if len(each) == 1 else [one[n] for one in each]}
            for n, draft in enumerate(self._drafts)
        ]

    def part(self, choice: int, start: int, stop: int) -> list[dict[str, Any]]:
        """The values of the tokens [start, stop) of a choice, counted from its first new token;
        with the first of them, what was read of the prompt."""
        self._take()
        found = []
        for draft, values in zip(self._drafts, self._of(choice), strict=True):
            if draft["tokens"] == "answer":
                part = {key: listed[start:stop] for key, listed in values.items()}
            elif start == 0:
                part = values
            else:
                continue
            said = {key: draft[key] for key in ("id", "measure", "tokens")}
            found.append({**said, "values": part})
        return found

    def _of(self, choice: int) -> list[By]:
        if choice not in self._values:
            self._values[choice] = [{key: [] for key in keys} for keys in self._keys]
        return self._values[choice]

    def _take(self) -> None:
        """Add what has come since the last call."""
        for name, note in RECEIPTS.by_sequence(self._receipt).items():
            taken = self._taken.get(name, 0)
            for chunk in note.reads[taken:]:
                self._add(self._of(self._answers.choice_of(name) or 0), chunk)
            self._taken[name] = len(note.reads)

    def _add(self, values: list[By], chunk: ReadChunk) -> None:
        keys = self._keys[chunk.readout]
        terms = np.frombuffer(chunk.values, np.float32).reshape(len(keys), -1)
        for key, listed in zip(keys, terms, strict=True):
            values[chunk.readout][key] += map(float, listed)


def _keys(readout: Readout) -> list[str]:
    several = len({site for site, _ in readout.terms}) > 1
    return [f"{site}.{layer}" if several else str(layer) for site, layer in readout.terms]
