"""What a dynamic request did at each token, in the form of its receipt."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from steersman.steering.plan import RECEIPTS, Choice

_CHILD: Final = re.compile(r"(\d+)_")
_PROMPT: Final = re.compile(r"[-_](\d+)(?:-[0-9a-f]{8})?$")


HARDLY: Final = 0.05
"""A mean coefficient below this is next to nothing: vectors' own coefficients are about 1."""


class Answers(NamedTuple):
    """The sequences that answer one request: `n` of them for each of its prompts."""

    n: int = 1
    prompts: int = 1

    @property
    def total(self) -> int:
        """Number of sequences, one for each choice."""
        return self.n * self.prompts

    def choice_of(self, name: str) -> int | None:
        """Index of the choice that vLLM's request `name` makes; None if the name does not show it.

        vLLM calls the answers to one prompt `<index>_<id>` (`v1/engine/parallel_sampling.py`), and
        several prompts `<id>-<index>` or, for chats, `<id>_<index>` (its `serving.py`s). To each it
        adds a dash and 8 hex digits.
        """
        child = _CHILD.match(name) if self.n > 1 else None
        prompt = _PROMPT.search(name) if self.prompts > 1 else None
        if (self.n > 1 and child is None) or (self.prompts > 1 and prompt is None):
            return None
        return int(child[1] if child else 0) + self.n * int(prompt[1] if prompt else 0)


class Trace:
    """The coefficients and divergences of a dynamic request, while its receipt is open."""

    def __init__(
        self, receipt: str, ids: Sequence[str], answers: Answers, *, divided: bool = False
    ) -> None:
        """`ids`: the ids of its vectors, as the request has them. `divided`: whether divergences
        are divided by the size of the nucleus (`"kl": "mean"`)."""
        self._divided = divided
        self._receipt = receipt
        self._keys = _keys(ids)
        self._answers = answers
        self._known = 0
        self._names: dict[int | None, list[str]] = {}
        """Of each choice, its sequences: several where a response calls a tool and goes on."""

    def whole(self) -> dict[str, Any] | list[dict[str, Any]]:
        """All tokens so far, and the mean of each vector's coefficients. With several choices, one
        such object for each."""
        wholes = [self._with_means(self.part(n, 0, None)) for n in range(self._answers.total)]
        return wholes[0] if self._answers.total == 1 else wholes

    def _with_means(self, part: dict[str, Any]) -> dict[str, Any]:
        for told in part.values():
            found = told["coefficients"]
            if not found:
                continue
            told["mean_coefficient"] = mean = sum(found) / len(found)
            if self._divided and mean < HARDLY:
                told["note"] = (
                    f"steered by {mean:.3g} on average, which is next to nothing; with "
                    '"dynamic": {"kl": "sum"} divergences, and so coefficients, are larger'
                )
        return part

    def part(self, choice: int, start: int, stop: int | None) -> dict[str, Any]:
        """Tokens [start, stop) of a choice, counted from its first new token."""
        made = self._choices(choice)[start:stop]
        return {
            key: {
                "coefficients": [one.coefficients[k] for one in made],
                "divergences": [one.divergences[k] for one in made],
            }
            for k, key in enumerate(self._keys)
        }

    def _choices(self, choice: int) -> tuple[Choice, ...]:
        notes = RECEIPTS.by_sequence(self._receipt)
        if len(notes) != self._known:
            self._known = len(notes)
            self._names.clear()
            for name in notes:
                self._names.setdefault(self._answers.choice_of(name), []).append(name)
        made = [notes[name].choices for name in self._names.get(choice, ())]
        # A stream asks for every chunk: the whole answer is not copied each time.
        return made[0] if len(made) == 1 else tuple(chain.from_iterable(made))


def _keys(ids: Sequence[str]) -> list[str]:
    """A unique key for each use: its id; from the second use of an id on `<id>#2` and so on."""
    seen: Counter[str] = Counter()
    keys = []
    for name in ids:
        seen[name] += 1
        keys.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return keys
