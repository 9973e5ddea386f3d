"""Markers: positions that begin or end where certain tokens stand.

They are counted over the whole request, its prompt and its answer. The marker's last token yields
the first token behind it, so it is the first that `after` names, and `until` names those before it.
Only the first time that the tokens stand there counts.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from steersman.steering.plan.errors import PlanInvalid

SIDES: Final = ("after", "until")
MAX_MARKER: Final = 16
"""Most tokens of a marker."""
_LARGEST: Final = 2**31 - 1
_MARKER: Final = re.compile(r"(after|until):([0-9]{1,10}(?:,[0-9]{1,10}){0,15})", re.ASCII)


class Marker(NamedTuple):
    """A rule of positions: the tokens behind, or before, the first place of these token ids."""

    side: str
    """"after" or "until"."""
    token_ids: tuple[int, ...]

    @property
    def rule(self) -> str:
        """As plans have it, such as "after:12,7"."""
        return f"{self.side}:{','.join(map(str, self.token_ids))}"

    def found_in(self, token_ids: Sequence[int]) -> int | None:
        """Index of the marker's last token where it stands first; None if it is not there.

        >>> Marker("after", (7, 8)).found_in([7, 7, 8, 7, 8])
        2
        """
        size, wanted = len(self.token_ids), list(self.token_ids)
        for at in range(len(token_ids) - size + 1):
            if token_ids[at] == wanted[0] and list(token_ids[at : at + size]) == wanted:
                return at + size - 1
        return None

    def span(self, found: int | None, end: int) -> tuple[int, int]:
        """Half-open interval of the token indices that it names below `end`. `found`: index of the
        marker's last token; None if it is not there.

        >>> Marker("after", (7,)).span(3, 10), Marker("until", (7,)).span(3, 10)
        ((3, 10), (0, 3))
        """
        at = end if found is None else found
        return (at, end) if self.side == "after" else (0, at)


def marker_of(rule: object) -> Marker | None:
    """The marker of a rule of positions as plans have it; None for any other rule."""
    match = _MARKER.fullmatch(rule) if isinstance(rule, str) else None
    return None if match is None else Marker(match[1], tuple(map(int, match[2].split(","))))


def marker(side: str, token_ids: object, param: str) -> Marker:
    """A marker of a list of token ids. Raises `PlanInvalid` for anything else."""
    sound = isinstance(token_ids, list | tuple) and 1 <= len(token_ids) <= MAX_MARKER
    if not sound or not all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one < _LARGEST
        for one in token_ids  # type: ignore[attr-defined]
    ):
        raise PlanInvalid(
            f"a marker is a string that is one token, or a list of 1 to {MAX_MARKER} token ids",
            param=param,
        )
    return Marker(side, tuple(token_ids))  # type: ignore[arg-type]
