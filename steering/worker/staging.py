"""The marks of a step's tokens, on their way from the host to the device."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


def upload(target: Tensor, source: Tensor) -> None:
    """Queue the copy of `source`, a host tensor used for nothing else, to `target`, and return.

    `source` is pinned first: from pageable memory the host would wait until the device has done all
    that is queued before. PyTorch does not reuse the pinned memory before the copy is made.
    """
    if target.device.type != "cpu":
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)


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
