"""The step's rows on their way to a device that lags behind the host."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steering.staging import StagedRows

TOKENS = 12


class Device:
    """Copies and forward passes in one queue; runs them when it likes, or is waited for."""

    def __init__(self) -> None:
        self.target = torch.full((TOKENS,), -1, dtype=torch.int32)
        self.seen: list[list[int]] = []
        self._queue: list[tuple[Tensor, int] | None] = []
        self._done = 0

    def copy(self, rows: Tensor, tokens: int) -> int:
        """Queue a copy; its place in the queue."""
        self._queue.append((rows, tokens))
        return len(self._queue)

    def forward(self) -> None:
        """Queue a forward pass, which sees `target` as it is then."""
        self._queue.append(None)

    def run(self, upto: int) -> None:
        """Do what is queued before place `upto`."""
        while self._done < min(upto, len(self._queue)):
            work = self._queue[self._done]
            if work is None:
                self.seen.append(self.target.tolist())
            else:
                rows, tokens = work
                self.target[:tokens] = rows[:tokens]
            self._done += 1

    def do_some(self, number: int) -> None:
        self.run(self._done + number)

    def finish(self) -> None:
        self.run(len(self._queue))


class Buffer:
    """Memory that `Device` reads when it comes to it, not when the copy is queued."""

    def __init__(self, device: Device) -> None:
        self.rows = torch.full((TOKENS,), -1, dtype=torch.int32)
        self._device = device
        self._sent = 0

    def send(self, target: Tensor, tokens: int) -> None:
        assert target is self._device.target
        self._sent = self._device.copy(self.rows, tokens)

    def wait(self) -> None:
        self._device.run(self._sent)


Step = tuple[int, list[tuple[int, int, int]], int]
"""(tokens in the step, marks, how much the device does meanwhile)."""


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    made = []
    for _ in range(draw(st.integers(1, 12))):
        tokens = draw(st.integers(0, TOKENS))
        cuts = draw(st.lists(st.integers(0, tokens), max_size=4).map(sorted))
        marks = [(a, b, n) for n, (a, b) in enumerate(itertools.pairwise(cuts)) if a < b]
        made.append((tokens, marks, draw(st.integers(0, 4))))
    return made


@given(made=steps())
def test_each_forward_pass_sees_the_marks_of_its_own_step(made: list[Step]) -> None:
    device = Device()
    staged = StagedRows(device.target, [Buffer(device), Buffer(device)])
    expected = []
    for tokens, marks, meanwhile in made:
        staged.begin()
        wanted = [-1] * TOKENS
        for start, stop, row in marks:
            staged.mark(start, stop, row)
            wanted[start:stop] = [row] * (stop - start)
        staged.commit(tokens)
        device.forward()
        expected.append(wanted)
        device.do_some(meanwhile)
    device.finish()
    assert device.seen == expected


def test_the_host_goes_on_while_one_copy_is_under_way() -> None:
    """Otherwise two buffers would be no better than one and a wait."""
    device = Device()
    staged = StagedRows(device.target, [Buffer(device), Buffer(device)])
    for _ in range(2):
        staged.begin()
        staged.commit(3)
        device.forward()
    assert device.seen == []
    staged.begin()
    assert len(device.seen) == 0
    staged.commit(3)
    staged.begin()
    assert len(device.seen) == 1


def test_on_the_host_there_is_nothing_to_copy() -> None:
    target = torch.full((TOKENS,), -1, dtype=torch.int32)
    staged = StagedRows.on(target)
    staged.begin()
    staged.mark(2, 4, 7)
    staged.commit(4)
    assert target.tolist() == [-1, -1, 7, 7] + [-1] * 8
    staged.begin()
    staged.commit(4)
    assert target.tolist() == [-1] * TOKENS
