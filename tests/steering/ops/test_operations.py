"""Terms that read the stream, in torch and as the kernel, against each operation's own words."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steersman.steering.ops.addition import add
from steersman.steering.ops.operations import READS, steer
from steersman.steering.ops.terms import (
    KEEP_NORM,
    KIND,
    NO_COLUMN,
    SCALARS,
    Column,
    Direction,
    columns,
)
from steersman.vectors.operation import OPERATIONS, Operation
from tests.support.steering.interpreted import Refused, interpreted, interpreted_steer

NAN = float("nan")
unhurried = settings(deadline=None, max_examples=100)


def limits(low: float | None, high: float | None) -> tuple[float, float]:
    return -math.inf if low is None else low, math.inf if high is None else high


@dataclass
class Use:
    """One use of a vector at the hook point, with tensors of its own."""

    operation: Operation
    rows: Tensor
    coefficient: float
    bias: float = 0.0
    threshold: float = 0.0

    def change(self, h: Tensor) -> Any:
        """What it changes of the stream `h` [hidden] float64, as the papers have it."""
        v, c = self.rows.double(), self.coefficient
        match self.operation:
            case Operation("add"):
                return c * v[0]
            case Operation("project"):
                u = v[0] / v[0].norm()
                return -c * (h @ u) * u
            case Operation("clamp", min=low, max=high):
                u = v[0] / v[0].norm()
                p = h @ u
                held = p.clamp(
                    -math.inf if low is None else low, math.inf if high is None else high
                )
                return c * (held - p) * u
            case Operation("feature", value=value, multiply=multiply):
                z = h @ v[0] + self.bias
                f = z if z > self.threshold else torch.zeros(())
                target = f * (multiply or 0.0) if value is None else value
                return c * (target - f) * v[1]
            case Operation("rotate", angle=angle, adaptive=adaptive):
                b1, b2 = v
                x, y = h @ b1, h @ b2
                if adaptive and x <= 0:
                    return torch.zeros_like(h)
                turn = math.radians(angle or 0.0)
                x2 = x * math.cos(turn) - y * math.sin(turn)
                y2 = x * math.sin(turn) + y * math.cos(turn)
                return c * ((x2 - x) * b1 + (y2 - y) * b2)
            case Operation("replace"):
                return c * (v[0] - h)
        weight, bias, low, high = v
        moved = torch.where((low < h) & (h < high), weight * h + bias, h)
        return c * (moved - h)


@dataclass
class Tables:
    """Arguments of `steer`, made entry by entry."""

    width: int
    terms: int
    bank: list[Tensor] = field(default_factory=list)
    entries: list[list[Column]] = field(default_factory=list)
    keep: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bank.append(torch.zeros(self.width))

    def entry(self, uses: list[Use], *, keep_norm: bool = False) -> None:
        found: list[Column] = []
        for use in uses:
            rows = []
            for n, row in enumerate(use.rows):
                numbers = (use.bias, use.threshold) if n == 0 else (0.0, 0.0)
                rows.append(Direction(len(self.bank), float(row.double().norm()), *numbers))
                self.bank.append(row)
            bounds = limits(use.operation.min, use.operation.max)
            found += columns(use.operation, rows, use.coefficient, bounds)
        assert len(found) <= self.terms
        self.entries.append(found + [NO_COLUMN] * (self.terms - len(found)))
        self.keep.append(keep_norm)

    def tensors(self, poison: float = 0.0) -> list[Tensor]:
        """bank, index, reads, coefficient, scalars; what is not used is `poison`."""
        bank = torch.stack([*self.bank, torch.full((self.width,), poison)])
        shape = len(self.entries), self.terms
        index = torch.tensor([[c.row for c in e] for e in self.entries], dtype=torch.int32)
        reads = torch.tensor([[c.read for c in e] for e in self.entries], dtype=torch.int32)
        coefficient = torch.tensor([[c.coefficient for c in e] for e in self.entries])
        scalars = torch.tensor([[list(c.scalars) for c in e] for e in self.entries])
        scalars[..., KIND] += KEEP_NORM * torch.tensor(self.keep)[:, None]
        unused = torch.tensor([[c is NO_COLUMN for c in e] for e in self.entries])
        reads[unused] = len(bank) - 1
        scalars[unused] = poison
        assert index.shape == shape
        return [bank, index, reads, coefficient, scalars]


def make_use(name: str, width: int, generator: torch.Generator) -> Use:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def number() -> float:
        return float(normal(1))

    c = number()
    match name:
        case "clamp":
            low, high = sorted((2 * number(), 2 * number()))
            bounds: dict[str, Any] = {"min": low, "max": high}
            bounds.pop(["min", "max", ""][int(torch.randint(3, (1,), generator=generator))], None)
            return Use(Operation("clamp", **bounds), 3 * normal(1, width), c)
        case "feature":
            setting: dict[str, Any] = {"value" if c > 0 else "multiply": number()}
            operation = Operation("feature", **setting)
            return Use(operation, normal(2, width), c, number(), abs(number()))
        case "rotate":
            plane = torch.linalg.qr(normal(width, 2)).Q.T.contiguous()
            operation = Operation("rotate", angle=180 * number(), adaptive=c > 0)
            return Use(operation, plane, c)
        case "transport":
            rows = normal(4, width)
            rows[2:] = rows[2:].sort(0).values
            return Use(Operation("transport"), rows, c)
    return Use(Operation(name), 2 * normal(1, width), c)


@dataclass
class Case:
    hidden: Tensor
    other: Tensor | None
    tables: Tables
    uses: list[list[Use]]
    entry: list[int]
    """For each token; -1: not steered."""
    gains: Tensor

    def arguments(self, poison: float = 0.0) -> list[Any]:
        bank, *tables = self.tables.tensors(poison)
        marks = [
            entry + READS if entry >= 0 and self.reads(entry) else entry for entry in self.entry
        ]
        other = self.other
        if other is not None and poison:
            other = other.clone()
            other[torch.tensor(self.entry) < 0] = poison
        return [
            other, bank, *tables, torch.tensor(marks, dtype=torch.int32), self.gains
        ]  # fmt: skip

    def reads(self, entry: int) -> bool:
        adds = all(use.operation.adds for use in self.uses[entry])
        return self.tables.keep[entry] or not adds

    def expected(self) -> Tensor:
        """In float64."""
        out = self.hidden.double()
        for t, entry in enumerate(self.entry):
            if entry < 0:
                continue
            rest = 0.0 if self.other is None else self.other[t].double()
            h = self.hidden[t].double() + rest
            change, column = torch.zeros_like(h), 0
            for use in self.uses[entry]:
                change += float(self.gains[t, column]) * use.change(h)
                column += 2 if use.operation.name == "transport" else 1
            if self.tables.keep[entry]:
                change = (h + change) * (h.norm() / (h + change).norm()) - h
            out[t] += change
        return out


@st.composite
def cases(draw: st.DrawFn) -> Case:
    width = draw(st.sampled_from([3, 8, 40, 576, 700]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    terms = draw(st.sampled_from([4, 8, 11]))
    tables, uses = Tables(width, terms), []
    for _ in range(draw(st.integers(1, 4))):
        names = draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=terms // 2))
        uses.append([make_use(name, width, generator) for name in names])
        tables.entry(uses[-1], keep_norm=draw(st.booleans()))
    tokens = draw(st.integers(1, 7))
    entry = [draw(st.integers(-1, len(uses) - 1)) for _ in range(tokens)]
    hidden = torch.randn(tokens, width, generator=generator)
    other = torch.randn(tokens, width, generator=generator) if draw(st.booleans()) else None
    gains = torch.ones(tokens, terms)
    if draw(st.booleans()):
        gains = torch.rand(tokens, terms, generator=generator) * 2 - 0.5
    return Case(hidden, other, tables, uses, entry, gains)


ways = pytest.mark.parametrize("operation", [steer, interpreted_steer], ids=["torch", "kernel"])
Operator = Callable[..., None]


@ways
@unhurried
@given(case=cases())
def test_each_operation_does_what_it_says(operation: Operator, case: Case) -> None:
    """Among poison in all that is not used, and beside tokens that are not steered."""
    hidden = case.hidden.clone()
    idle = torch.tensor(case.entry) < 0
    hidden[idle] = NAN
    bits = hidden.view(torch.int32).clone()
    operation(hidden, *case.arguments(NAN))
    expected = case.expected()
    size = 1 + expected.abs().max()
    difference = (hidden.double() - expected)[~idle].abs()
    assert bool((difference <= 1e-4 * size).all())
    assert torch.equal(hidden.view(torch.int32)[idle], bits[idle])


@pytest.mark.parametrize(
    ("operation", "addition"),
    [(steer, add), (interpreted_steer, interpreted)],
    ids=["torch", "kernel"],
)
@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_a_token_whose_terms_only_add_has_the_bits_of_the_addition(
    operation: Operator, addition: Operator, case: Case
) -> None:
    hidden, alone = case.hidden.clone(), case.hidden.clone()
    arguments = case.arguments()
    operation(hidden, *arguments)
    _, bank, index, _, coefficient, _, token_entry, gains = arguments
    adding = torch.where(token_entry >= READS, -1, token_entry)
    addition(alone, bank, index, coefficient, adding, gains)
    others = token_entry < READS
    assert torch.equal(hidden[others].view(torch.int32), alone[others].view(torch.int32))


@ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_stream_is_read_in_float32_and_cast_once(
    operation: Operator, dtype: torch.dtype
) -> None:
    """Both parts have a quarter that half precision loses in their sum."""
    tables = Tables(16, 2)
    tables.entry([Use(Operation("project"), torch.eye(16)[:1], 1.0)])
    hidden, other = torch.full((1, 16), 2048.0).to(dtype), torch.full((1, 16), 0.25).to(dtype)
    marks, gains = torch.tensor([READS], dtype=torch.int32), torch.ones(1, 2)
    operation(hidden, other, *tables.tensors(), marks, gains)
    # 2048 - 2048.25, and not 2048 - 2048.
    assert float(hidden[0, 0]) == -0.25
    assert hidden[0, 1:].tolist() == [2048.0] * 15


@ways
def test_a_stream_of_strides_and_a_part_of_wide_tables(operation: Operator) -> None:
    tables = Tables(6, 4)
    tables.entry([Use(Operation("replace"), torch.arange(6.0)[None], 1.0)])
    stream, rest = torch.randn(3, 20), torch.randn(3, 9)
    hidden, other = stream[:, 2:14:2], rest[:, 1:7]
    before = stream.clone()
    bank, *parts = tables.tensors()
    wide = [torch.stack([torch.cat([part, part])] * 3)[1] for part in parts]
    marks = torch.tensor([-1, READS, READS + 1, 0], dtype=torch.int32)
    operation(hidden, other, bank, *wide, marks, torch.ones(4, 4))
    torch.testing.assert_close((hidden + other)[1:], torch.arange(6.0).expand(2, 6))
    untouched = torch.ones_like(stream, dtype=torch.bool)
    untouched[1:, 2:14:2] = False
    assert torch.equal(stream[untouched], before[untouched])


def fitting() -> dict[str, Tensor]:
    return {
        "hidden": torch.ones(3, 6),
        "other": torch.ones(3, 6),
        "bank": torch.ones(2, 6),
        "index": torch.ones(2, 4, dtype=torch.int32),
        "reads": torch.ones(2, 4, dtype=torch.int32),
        "coefficient": torch.ones(2, 4),
        "scalars": torch.ones(2, 4, SCALARS),
        "token_entry": torch.zeros(3, dtype=torch.int32),
        "token_gain": torch.ones(3, 4),
    }


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("other", torch.ones(3, 5)),
        ("reads", torch.ones(2, 3, dtype=torch.int32)),
        ("scalars", torch.ones(2, 4, SCALARS - 1)),
        ("scalars", torch.ones(2, SCALARS, 4).mT),
        ("bank", torch.ones(2, 12)[:, ::2]),
        ("token_gain", torch.ones(2, 4)),
    ],
)
def test_tables_that_do_not_go_together_are_refused(name: str, wrong: Tensor) -> None:
    interpreted_steer(**fitting())
    with pytest.raises(Refused, match="does not match bank"):
        interpreted_steer(**fitting() | {name: wrong})


def test_torch_finds_the_operation_sound() -> None:
    """Schema, mutation and fake implementation agree, so torch.compile may rely on them."""
    for other in (torch.randn(5, 6), None):
        arguments = fitting() | {
            "hidden": torch.randn(5, 6),
            "token_entry": torch.tensor([0, READS, -1, READS + 1, 1], dtype=torch.int32),
            "token_gain": torch.rand(5, 4),
        }
        hidden, _, *rest = arguments.values()
        torch.library.opcheck(torch.ops.steersman.steer.default, (hidden, other, *rest))
