"""The marks of a step's tokens, on their way from the host to the device."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class StagedRows:
    """Rows of `target` along dimension `dim`, written on the host and sent together: a copy and a
    scatter for each `at_once` rows, however many are written in a step.

    Assumption: between two calls of `send` no forward pass is queued that reads a row which was
    written since the first. Guarantee: a row has what was written last when `send` returns, in the
    order of the device's queue. The host does not wait: PyTorch gives page-locked memory to nobody
    else until the copy from it is made.
    """

    def __init__(self, target: Tensor, dim: int, at_once: int, *, pinned: bool = True) -> None:
        self._target = target.movedim(dim, 0)
        self._at_once = at_once
        self._pinned = pinned
        self._places: dict[int, int] = {}
        """Place in `_values` of each row that is to be sent."""
        self._values = torch.empty(0)

    @classmethod
    def on(cls, target: Tensor, dim: int = 0, at_once: int = 256) -> "StagedRows | WrittenRows":
        """The way to `target`, wherever it is."""
        if target.device.type == "cpu":
            return WrittenRows(target, dim)
        return cls(target, dim, at_once)

    def put(self, row: int, values: Tensor) -> None:
        """Copy `values`, a row of the target on the host, to `row` with the next `send`."""
        if len(self._places) == self._at_once and row not in self._places:
            self.send()
        if not self._places:
            shape = (self._at_once, *self._target.shape[1:])
            self._values = torch.empty(shape, dtype=self._target.dtype, pin_memory=self._pinned)
        place = self._places.setdefault(row, len(self._places))
        self._values[place].copy_(values)

    def send(self) -> None:
        """Queue the copy of all rows that were put, and return."""
        if not self._places:
            return
        rows = torch.tensor(list(self._places), pin_memory=self._pinned)
        device = self._target.device
        values = self._values[: len(rows)].to(device, non_blocking=True)
        self._target.index_copy_(0, rows.to(device, non_blocking=True), values)
        self._places.clear()


class WrittenRows:
    """`StagedRows` where device and host are one: written is there."""

    def __init__(self, target: Tensor, dim: int) -> None:
        self._target = target.movedim(dim, 0)

    def put(self, row: int, values: Tensor) -> None:
        self._target[row].copy_(values)

    def send(self) -> None:
        pass


class HostBuffer(Protocol):
    """Memory on the host from which a queued copy reads when the device reaches it."""

    values: Tensor
    """As the target in shape and dtype. Must not be written between `send` and `wait`."""

    def send(self, target: Tensor, tokens: int) -> None:
        """Queue the copy of the first `tokens` values to `target`, and return."""

    def wait(self) -> None:
        """Return when the last copy that was queued has been made."""


class PinnedBuffer:
    """A `HostBuffer` of page-locked memory for a CUDA device."""

    def __init__(self, target: Tensor, rest: float) -> None:
        self.values = torch.full_like(target, rest, device="cpu").pin_memory()
        self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def send(self, target: Tensor, tokens: int) -> None:
        target[:tokens].copy_(self.values[:tokens], non_blocking=True)
        self._copied.record()

    def wait(self) -> None:
        self._copied.synchronize()


class SameMemory:
    """A `HostBuffer` where device and host are one, so nothing is copied."""

    def __init__(self, target: Tensor) -> None:
        self.values = target

    def send(self, target: Tensor, tokens: int) -> None:
        pass

    def wait(self) -> None:
        pass


class StagedTokens:
    """`target` [tokens, ...] on the device, written on the host and copied once a step. Unmarked
    tokens have the value `rest`.

    Under asynchronous scheduling the host prepares a step while the device still computes the one
    before, and the copy waits in the device's queue: written too early, the host's memory would
    mark the wrong tokens. vLLM's V1 runner waits for that itself, its V2 runner does not. So
    buffers take turns, and each waits for its own last copy before it is written again.

    Assumption: copies and forward passes are queued on one stream. Guarantee: while the forward
    pass of a step runs on the device, `target` has what was marked for that step and no other.
    """

    def __init__(self, target: Tensor, buffers: Sequence[HostBuffer], rest: float = -1) -> None:
        self._target = target
        self._rest = rest
        self._buffers = buffers
        self._written = [0] * len(buffers)
        """For each buffer, the number of tokens that may be marked; those behind are at `rest`."""
        self._sent = 0
        """Number of tokens of `target` that may be marked."""
        self._turn = 0
        self._values = buffers[0].values.numpy()

    @classmethod
    def on(cls, target: Tensor, rest: float = -1) -> "StagedTokens":
        """A `StagedTokens` for `target` on its device. `target` must have the value `rest`
        everywhere."""
        if target.device.type == "cpu":
            return cls(target, [SameMemory(target)], rest)
        return cls(target, [PinnedBuffer(target, rest), PinnedBuffer(target, rest)], rest)

    def begin(self) -> None:
        """Take the next buffer, and unmark all its tokens."""
        self._turn = turn = (self._turn + 1) % len(self._buffers)
        self._buffers[turn].wait()
        self._values = self._buffers[turn].values.numpy()
        self._values[: self._written[turn]] = self._rest
        self._written[turn] = 0

    def mark(self, start: int, stop: int, value: Any) -> None:
        """Give tokens [start, stop) the value `value`, or the values of an array [stop - start,
        ...]."""
        self._values[start:stop] = value
        self._written[self._turn] = max(self._written[self._turn], stop)

    def commit(self, tokens: int) -> None:
        """Queue the copy of the marks of a step with `tokens` tokens. Tokens behind them are
        unmarked."""
        tokens = max(tokens, self._written[self._turn])
        if tokens or self._sent:
            self._buffers[self._turn].send(self._target, max(tokens, self._sent))
        self._sent = tokens


class GuessedTokens:
    """Values of tokens whose positions the device alone knows, in tensors of one value a token.

    Under asynchronous speculative decoding the host prepares a step before it is known how many
    drafts of the step before were kept. It lists the values of all positions where a token may be,
    and the device, which knows the position, takes one. Nobody waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.positions: Tensor | None = None
        """[tokens] int64 on the device: of each token of the running step, its index in its
        request. Needed before a `send` of anything."""
        self._device = device
        self._pinned = device.type != "cpu"
        self._tokens: list[NDArray[np.int64]] = []
        """[4, tokens]: the token's place in the batch; what is to be added to its position to get
        its place among the values; the first and the last place that it may have there."""
        self._values: list[Sequence[NDArray[Any]]] = []
        self._listed = 0

    def __len__(self) -> int:
        """How many values are listed."""
        return self._listed

    def clear(self) -> None:
        """Forget what was put."""
        self._tokens, self._values, self._listed = [], [], 0

    def put(self, start: int, stop: int, earliest: int, values: Sequence[NDArray[Any]]) -> None:
        """List the `values` of tokens [start, stop) of the batch: for each target an array
        [positions, ...] of the positions from `earliest` on. A token that lies before or behind
        them gets the first or the last."""
        tokens = np.empty((4, stop - start), dtype=np.int64)
        tokens[0] = np.arange(start, stop)
        tokens[1] = self._listed - earliest
        tokens[2] = self._listed
        self._listed += len(values[0])
        tokens[3] = self._listed - 1
        self._tokens.append(tokens)
        self._values.append(values)

    def send(self, targets: Sequence[Tensor]) -> None:
        """Queue the writing of each token's values to `targets` [tokens, ...]."""
        if not self._tokens:
            return
        assert self.positions is not None, "tokens are marked by positions that are not set"
        tokens, offsets, first, last = self._sent(np.concatenate(self._tokens, axis=1))
        places = (self.positions[tokens] + offsets).clamp(first, last)
        for target, listed in zip(targets, zip(*self._values, strict=True), strict=True):
            target.index_copy_(0, tokens, self._sent(np.concatenate(listed))[places])

    def _sent(self, values: NDArray[Any]) -> Tensor:
        on_host = torch.from_numpy(values)
        if self._pinned:
            # PyTorch gives page-locked memory to nobody else until the copy from it is made.
            on_host = on_host.pin_memory()
        return on_host.to(self._device, non_blocking=True)
