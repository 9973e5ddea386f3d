"""What a step marks on its way to a device that lags behind the host."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steersman.steering.worker.staging import StagedRows, StagedTokens

TOKENS = 12


def rows() -> Tensor:
    return torch.full((TOKENS,), -1, dtype=torch.int32)


def gains() -> Tensor:
    return torch.ones(TOKENS, 2)


targets = pytest.mark.parametrize("target", [rows, gains])
"""What is staged, at rest everywhere."""
Target = Callable[[], Tensor]


def rest_of(target: Target) -> float:
    return float(target().flatten()[0])


class Device:
    """Copies and forward passes in one queue; runs them when it likes, or is waited for."""

    def __init__(self, target: Target = rows) -> None:
        self.target = target()
        self.rest = rest_of(target)
        self.seen: list[Any] = []
        self._queue: list[tuple[Tensor, int] | None] = []
        self._done = 0

    @property
    def copies(self) -> list[int]:
        """How many tokens each copy has that was ever queued."""
        return [work[1] for work in self._queue if work is not None]

    def staged(self) -> StagedTokens:
        """The way to `target` as on a GPU: by two buffers."""
        return StagedTokens(self.target, [Buffer(self), Buffer(self)], self.rest)

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
        self.values = torch.full_like(device.target, device.rest)
        self._device = device
        self._sent = 0

    def send(self, target: Tensor, tokens: int) -> None:
        assert target is self._device.target
        self._sent = self._device.copy(self.values, tokens)

    def wait(self) -> None:
        self._device.run(self._sent)


Step = tuple[int, list[tuple[int, int, int]], int]
"""(tokens that `commit` is told of, marks, how much the device does meanwhile)."""


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    made = []
    for _ in range(draw(st.integers(1, 12))):
        tokens = draw(st.integers(0, TOKENS))
        cuts = draw(st.lists(st.integers(0, tokens), max_size=4).map(sorted))
        marks = [(a, b, n) for n, (a, b) in enumerate(itertools.pairwise(cuts)) if a < b]
        made.append((draw(st.sampled_from([tokens, 0])), marks, draw(st.integers(0, 4))))
    return made


@targets
@given(made=steps())
def test_each_forward_pass_sees_the_marks_of_its_own_step(target: Target, made: list[Step]) -> None:
    device = Device(target)
    staged = device.staged()
    expected = []
    for tokens, marks, meanwhile in made:
        staged.begin()
        wanted = target().numpy()
        for start, stop, number in marks:
            value: Any = number
            if wanted.ndim == 2:  # each token its own values
                value = number + np.arange(2.0 * (stop - start)).reshape(-1, 2) / 64
            staged.mark(start, stop, value)
            wanted[start:stop] = value
        staged.commit(tokens)
        device.forward()
        expected.append(wanted.tolist())
        device.do_some(meanwhile)
    device.finish()
    assert device.seen == expected


def test_the_host_goes_on_while_one_copy_is_under_way() -> None:
    """Otherwise two buffers would be no better than one and a wait."""
    device = Device()
    staged = device.staged()
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


@targets
def test_no_copy_where_nothing_is_marked_and_nothing_was(target: Target) -> None:
    """Most steps have no gains: those make one copy, of rows."""
    device = Device(target)
    staged = device.staged()
    for marked in (0, 5, 3, 0, 0, 4):
        staged.begin()
        if marked:
            staged.mark(0, marked, 9)
        staged.commit(0)
    assert device.copies == [5, 5, 3, 4]


@targets
def test_on_the_host_there_is_nothing_to_copy(target: Target) -> None:
    there, wanted = target(), target()
    staged = StagedTokens.on(there, rest_of(target))
    staged.begin()
    staged.mark(2, 4, 7)
    staged.commit(4)
    wanted[2:4] = 7
    assert torch.equal(there, wanted)
    staged.begin()
    staged.commit(4)
    assert torch.equal(there, target())


class Counted(StagedRows):
    """Rows on their way to a device that is this host, from memory that is not page-locked."""

    def __init__(self, target: Tensor, dim: int, at_once: int) -> None:
        super().__init__(target, dim, at_once, pinned=False)
        self.sent: list[int] = []

    def send(self) -> None:
        if self._places:
            self.sent.append(len(self._places))
        super().send()


writes = st.lists(
    st.one_of(st.none(), st.tuples(st.integers(0, 5), st.integers(-9, 9))), max_size=30
)
"""Rows with their values, and None for a step's end."""


@given(writes, st.sampled_from([0, 1]), st.integers(1, 8))
def test_staged_rows_are_those_that_were_written_last(
    written: list[tuple[int, int] | None], dim: int, at_once: int
) -> None:
    shape = (6, 3, 2) if dim == 0 else (3, 6, 2)
    staged, direct = torch.zeros(shape), torch.zeros(shape)
    on_device, on_host = Counted(staged, dim, at_once), StagedRows.on(direct, dim)
    for write in [*written, None]:
        if write is None:
            on_device.send()
            on_host.send()
            assert torch.equal(staged, direct)
        else:
            row, value = write
            values = torch.full((3, 2), float(value))
            on_device.put(row, values)
            on_host.put(row, values)
            values.fill_(100)  # What was put is a copy.


def test_a_steps_rows_are_one_copy_however_many_there_are() -> None:
    target = torch.zeros(64, 4)
    rows = Counted(target, 0, at_once=16)
    for row in range(12):
        rows.put(row, torch.ones(4))
    rows.put(3, torch.full((4,), 2.0))
    assert not target.any()
    rows.send()
    rows.send()
    assert rows.sent == [12]
    assert target.sum(1).tolist() == [4.0] * 3 + [8.0] + [4.0] * 8 + [0.0] * 52
    for row in range(40):
        rows.put(row, torch.ones(4))
    rows.send()
    assert rows.sent == [12, 16, 16, 8]


def test_rows_go_to_a_device_from_page_locked_memory_without_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    def record(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def pretend(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
            made.append(pin_memory)  # There is none without a GPU.
            return make(*args, **kwargs)

        return pretend

    def to(self: Tensor, device: Any, *, non_blocking: bool = False) -> Tensor:
        made.append(non_blocking)
        return self

    rows = StagedRows(torch.zeros(4, 2), 0, at_once=2)
    monkeypatch.setattr(torch, "empty", record(torch.empty))
    monkeypatch.setattr(torch, "tensor", record(torch.tensor))
    monkeypatch.setattr(Tensor, "to", to)
    rows.put(1, torch.ones(2))
    rows.send()
    assert made == [True] * 4
