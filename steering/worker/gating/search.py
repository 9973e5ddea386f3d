"""Where a marker stands in a request, found on the device as its tokens enter the model."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from steersman.steering.plan.when.markers import Marker

NEVER: Final = 2**62
"""The place of a marker that is not there."""
_NO_TOKEN: Final = -1


class MarkerSearch:
    """Looks for a marker in the tokens of a request.

    The prompt is searched on the host, which has it. The tokens of the answer are known to the
    device alone until a step is over, so they are compared there, and nothing waits. Tokens from a
    step's first on replace what an earlier step had in their places: drafts that were rejected are
    forgotten, and so is a marker that ended among them.
    """

    def __init__(self, marker: Marker, prompt: Sequence[int], device: torch.device) -> None:
        """`prompt`: the ids of its tokens."""
        self.marker = marker
        self.in_prompt = marker.found_in(prompt)
        """Index of the marker's last token, if all of it stands in the prompt. Then there is
        nothing to look for."""
        size = len(marker.token_ids)
        self._prompt_tokens = len(prompt)
        self._first = len(prompt) - size + 1
        """Index in the request of the first of `_history`."""
        tail = [_NO_TOKEN] * (size - 1) + list(prompt)
        self._history = torch.tensor(tail[len(tail) - size + 1 :], dtype=torch.int32, device=device)
        """[>= tokens of the answer + size - 1] int32: the end of the prompt, and the answer."""
        self._wanted = torch.tensor(marker.token_ids, dtype=torch.int32, device=device)
        self._back = torch.arange(1 - size, 1, device=device)
        self._found = torch.full((), NEVER, device=device)
        """int64: index of the marker's last token in the answer."""

    def look(self, ids: Tensor, positions: Tensor, stop: int) -> None:
        """Look at the tokens `ids` [n] of the answer, at the indices `positions` [n] int64 of the
        request, which ascend by one and are below `stop`. They follow those of an earlier call, or
        begin among them."""
        if len(self._history) < stop - self._first:
            more = max(len(self._history), stop - self._first - len(self._history), 64)
            rest = self._history.new_full((more,), _NO_TOKEN)
            self._history = torch.cat([self._history, rest])
        at = positions - self._first
        self._history.index_copy_(0, at, ids.to(torch.int32))
        windows = self._history[at.unsqueeze(1) + self._back]
        hits = (windows == self._wanted).all(-1)
        # One that was found from the first of these on was found in tokens that are replaced.
        earlier = torch.where(self._found < positions[0], self._found, NEVER)
        self._found = torch.minimum(earlier, torch.where(hits, positions, NEVER).min())

    def names(self, positions: Tensor) -> Tensor:
        """Whether the marker names each of the indices `positions` [n] int64: bool [n]."""
        found: Tensor | int = self._found if self.in_prompt is None else self.in_prompt
        return positions >= found if self.marker.side == "after" else positions < found
