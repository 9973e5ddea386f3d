"""The columns of a table entry whose terms read the stream, and how an operation becomes columns.

Most operations are one form: h + sum_k c_k phi_k(w_k.h + b_k) u_k, with phi(p) = alpha + [p > tau]
(beta clip(p, lo, hi) + gamma p). A column is one term of it: u is its bank row, w the row that it
reads; one that only adds has phi = 1 and reads the row of zeros.

`rotate` reads both of its rows. `replace` and `transport` act element by element; `transport` needs
four rows, so the column behind it holds two of them, with a coefficient of 0.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from steersman.vectors.operation import Operation

FORM: Final = 0
ROTATE: Final = 1
REPLACE: Final = 2
TRANSPORT: Final = 3
KEEP_NORM: Final = 8
"""Added to the kind of each column where the stream keeps its norm."""

SCALARS: Final = 8
"""Numbers of a column, in this order."""
B, ALPHA, BETA, GAMMA, LO, HI, TAU, KIND = range(SCALARS)

_ZERO_ROW: Final = 0
_EVERYWHERE: Final = -math.inf


class Scalars(NamedTuple):
    """The numbers of a column. Of `ROTATE`, alpha and beta are cos - 1 and sin of the angle, and
    tau is what h.b1 must be over."""

    b: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0
    lo: float = -math.inf
    hi: float = math.inf
    tau: float = _EVERYWHERE
    kind: float = FORM


ADDS: Final = Scalars(alpha=1.0)


class Column(NamedTuple):
    """One column of a table entry at one slot."""

    row: int
    """Bank row of what is added, u."""
    coefficient: float
    read: int = _ZERO_ROW
    """Bank row whose product with the stream decides how much, w."""
    scalars: Scalars = ADDS
    gate: int = 0
    """Column of the register of gates (`steersman.steering.worker.gating.gates`); 0: no gate."""


NO_COLUMN: Final = Column(_ZERO_ROW, 0.0)


class Direction(NamedTuple):
    """A bank row, with what is known of its content on the host."""

    row: int
    norm: float
    """L2 norm."""
    bias: float = 0.0
    """Of a feature's encoder."""
    threshold: float = 0.0


def columns(
    operation: Operation,
    rows: Sequence[Direction],
    coefficient: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> list[Column]:
    """The columns of a use of a vector at one hook point, whose `rows` are as
    `steersman.vectors.parts` has them. `bounds`: of `clamp`, in the stream's units."""
    match operation.name:
        case "add":
            return [Column(one.row, coefficient) for one in rows]
        case "project":
            return [
                Column(one.row, coefficient, one.row, Scalars(gamma=-(one.norm**-2)))
                for one in rows
            ]
        case "clamp":
            (one,) = rows
            factor = one.norm**-2
            lo, hi = (bound * one.norm for bound in bounds)
            scalars = Scalars(beta=factor, gamma=-factor, lo=lo, hi=hi)
            return [Column(one.row, coefficient, one.row, scalars)]
        case "feature":
            half = len(rows) // 2
            return [
                Column(d.row, coefficient, e.row, _feature(operation, e))
                for e, d in zip(rows[:half], rows[half:], strict=True)
            ]
        case "rotate":
            b1, b2 = rows
            return [Column(b1.row, coefficient, b2.row, _rotation(operation))]
        case "replace":
            (one,) = rows
            return [Column(one.row, coefficient, scalars=Scalars(kind=REPLACE))]
        case "transport":
            weight, bias, low, high = (one.row for one in rows)
            return [
                Column(weight, coefficient, bias, Scalars(kind=TRANSPORT)),
                Column(low, 0.0, high, Scalars(kind=TRANSPORT)),
            ]
    raise ValueError(f"unknown operation {operation.name!r}")


def _feature(operation: Operation, encoder: Direction) -> Scalars:
    tau = encoder.threshold
    if operation.value is not None:
        return Scalars(b=encoder.bias, alpha=operation.value, gamma=-1.0, tau=tau)
    assert operation.multiply is not None
    return Scalars(b=encoder.bias, gamma=operation.multiply - 1.0, tau=tau)


def _rotation(operation: Operation) -> Scalars:
    assert operation.angle is not None
    angle = math.radians(operation.angle)
    tau = 0.0 if operation.adaptive else _EVERYWHERE
    return Scalars(alpha=math.cos(angle) - 1.0, beta=math.sin(angle), tau=tau, kind=ROTATE)
