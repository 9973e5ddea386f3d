"""The tensors that an operation needs at a hook point: by name in a file, as rows in memory.

    add, clamp, replace   resid_post.14                     [hidden]
    project               resid_post.14                     [hidden], or [k, hidden], orthonormal
    feature               resid_post.14.encoder, .decoder   [hidden], or [k, hidden]
                          resid_post.14.bias, .threshold    [k]; a threshold of 0 (ReLU) if absent
    transport             resid_post.14.bias                [hidden]
                          .weight, .low, .high              [hidden]; 1 and no bounds if absent
    rotate                resid_post.14.b1, .b2             [hidden], orthonormal

In memory a hook point has one tensor of rows, [rows, hidden]: the k encoders and then the k
decoders; weight, bias, low, high; b1, b2. The numbers of a feature are beside it, [2, k]: biases,
thresholds.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import SITES, HookPoint, check_shape, parse_tensor_name, tensor_name

PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "feature": ("encoder", "decoder", "bias", "threshold"),
    "transport": ("weight", "bias", "low", "high"),
    "rotate": ("b1", "b2"),
}
"""The parts of a hook point's tensors, by operation."""
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "feature": ("encoder", "decoder", "bias"),
    "transport": ("bias",),
    "rotate": ("b1", "b2"),
}
_NUMBERS: Final = ("bias", "threshold")
_NAMES: Final = tuple(dict.fromkeys(part for parts in PARTS.values() for part in parts))
_NAME: Final = re.compile(
    rf"((?:{'|'.join(SITES)})\.(?:0|[1-9][0-9]{{0,3}}))\.({'|'.join(_NAMES)})", re.ASCII
)
WHOLE: Final = ""
"""The part of a tensor that is all there is at its hook point."""
ALIKE: Final = frozenset(("add", "project", "clamp", "replace"))
"""Operations with one direction, which may be used on each other's files."""
_ORTHONORMAL: Final = 1e-3
"""Largest difference of a product of two directions from 0, or of one with itself from 1."""
SHORTEST: Final = 1e-15
LONGEST: Final = 1e15
"""Norms of a direction: it is divided by its square, in float32."""
_FAR: Final = torch.finfo(torch.float32).max


class PartName(NamedTuple):
    """A tensor's name in a file."""

    point: HookPoint
    part: str
    """`WHOLE`, or one of `PARTS`."""

    @property
    def text(self) -> str:
        """As a file has it."""
        return tensor_name(self.point) + (f".{self.part}" if self.part else "")


def parse_part_name(name: str) -> PartName:
    """Read `resid_post.14` or `resid_post.14.encoder`. Raises `VectorInvalid`."""
    match = _NAME.fullmatch(name)
    if match is None:
        return PartName(parse_tensor_name(name), WHOLE)
    return PartName(parse_tensor_name(match[1]), match[2])


def is_our_name(name: str) -> bool:
    """Whether `parse_part_name` reads it."""
    try:
        parse_part_name(name)
    except VectorInvalid:
        return False
    return True


def operation_of(names: Collection[PartName], said: str | None) -> str:
    """The operation of a file with these tensors, whose metadata has the operation `said`. Raises
    `VectorInvalid` for tensors that do not go together, or that do not go with `said`."""
    parts: defaultdict[HookPoint, set[str]] = defaultdict(set)
    for point, part in names:
        parts[point].add(part)
    kinds = {point: _kind(point, found) for point, found in parts.items()}
    first, kind = next(iter(kinds.items()))
    for point, other in kinds.items():
        if other != kind:
            raise VectorInvalid(
                f"{tensor_name(first)!r} has the tensors of {kind or 'one direction'}, and "
                f"{tensor_name(point)!r} those of {other or 'one direction'}; a file has one "
                "operation: make a file of each",
                param=tensor_name(point),
                code="mixed_operations",
            )
    if kind:
        if said not in (None, kind):
            raise _unfit(said or "", f"the tensors of {kind}", "operation")
        return kind
    if said is not None and said in PARTS:
        raise _unfit(said, "one tensor a hook point", "operation")
    return said or "add"


def _kind(point: HookPoint, parts: set[str]) -> str:
    """The operation that has these parts at a hook point; "" for a tensor without parts."""
    if parts == {WHOLE}:
        return ""
    for operation, needed in _NEEDED.items():
        if set(needed) <= parts <= set(PARTS[operation]):
            return operation
    found = ", ".join(sorted(parts - {WHOLE}))
    needs = "; ".join(f"{name}: {', '.join(parts)}" for name, parts in _NEEDED.items())
    raise VectorInvalid(
        f"{tensor_name(point)!r} has the tensors {found}"
        f"{' and one without a part' if WHOLE in parts else ''}, which do not make an operation; "
        f"each needs all of its own ({needs})",
        param=tensor_name(point),
        code="incomplete_operation",
    )


def hidden_size_of(name: PartName, operation: str, shape: tuple[int, ...]) -> int | None:
    """The hidden size of a tensor in a file; None for one of numbers. Raises `VectorInvalid` for a
    shape that its operation does not have."""
    part = name.part
    if operation == "feature" and part in _NUMBERS:
        if len(shape) == 1:
            return None
        raise _shape(name, shape, "[features]")
    most = 2 if operation == "feature" else 1
    if part and not 1 <= len(shape) <= most:
        raise _shape(name, shape, "[hidden], or [features, hidden]" if most == 2 else "[hidden]")
    return check_shape(name.text, shape)


def rows_shape(operation: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape in memory of a hook point's tensors, whose shapes in the file these are."""
    if operation == "feature":
        encoder = shapes["encoder"]
        return (2 * (encoder[0] if len(encoder) > 1 else 1), encoder[-1])
    if operation in PARTS:
        return ({"transport": 4, "rotate": 2}[operation], shapes[_NEEDED[operation][0]][-1])
    return shapes[WHOLE]


class Rows(NamedTuple):
    """A hook point's tensors in memory."""

    rows: Tensor
    """float32 [hidden] or [rows, hidden]."""
    numbers: Tensor | None = None
    """float32 [2, k]: biases and thresholds of features."""


def stacked(operation: str, point: HookPoint, parts: Mapping[str, Tensor]) -> Rows:
    """The tensors in memory of those in a file, float32 by part. Raises `VectorInvalid` for parts
    of different sizes."""
    if operation not in PARTS:
        return Rows(parts[WHOLE])
    flat = {part: t.reshape(-1, t.shape[-1]) for part, t in parts.items() if t.dim() > 0}
    if operation == "feature":
        count = len(flat["encoder"])
        numbers = torch.zeros(2, count)
        for n, part in enumerate(_NUMBERS):
            if part in parts:
                if parts[part].shape != (count,):
                    raise _shape(PartName(point, part), tuple(parts[part].shape), f"[{count}]")
                numbers[n] = parts[part]
        if len(flat["decoder"]) != count:
            wanted = f"that of the encoder, {tuple(parts['encoder'].shape)}"
            raise _shape(PartName(point, "decoder"), tuple(parts["decoder"].shape), wanted)
        return Rows(torch.cat([flat["encoder"], flat["decoder"]]), numbers)
    if operation == "transport":
        plain = {"weight": 1.0, "low": -_FAR, "high": _FAR}
        like = flat["bias"]
        flat = {part: torch.full_like(like, value) for part, value in plain.items()} | flat
    return Rows(torch.cat([flat[part] for part in PARTS[operation]]))


def unstacked(operation: str, rows: Rows) -> dict[str, Tensor]:
    """The tensors by part of a file: what `stacked` reads."""
    if operation not in PARTS:
        return {WHOLE: rows.rows}
    if operation == "feature":
        assert rows.numbers is not None
        encoder, decoder = rows.rows.chunk(2)
        return dict(zip(PARTS[operation], (encoder, decoder, *rows.numbers), strict=True))
    return dict(zip(PARTS[operation], rows.rows, strict=True))


def check_rows(operation: Operation, point: HookPoint, rows: Rows) -> None:
    """Raise `VectorInvalid`, about the tensor, for directions with which `operation` cannot be
    done."""
    name, tensor = tensor_name(point), rows.rows.reshape(-1, rows.rows.shape[-1])
    count = len(tensor)
    if operation.name in ("clamp", "replace") and count > 1:
        raise _shape(PartName(point, WHOLE), tuple(rows.rows.shape), "[hidden]")
    if operation.name in ("project", "clamp", "rotate", "feature"):
        for direction in tensor:
            check_direction(float(direction.double().norm()), name)
    if operation.name == "rotate" or (operation.name == "project" and count > 1):
        products = tensor.double() @ tensor.double().T
        off = float((products - torch.eye(count, dtype=torch.float64)).abs().max())
        if off > _ORTHONORMAL:
            raise VectorInvalid(
                f"the directions at {name} are not orthonormal (one product is off by {off:.3g}); "
                "with others the result depends on their order: take an orthonormal basis of "
                "them, such as torch.linalg.qr(directions.T).Q.T",
                param=name,
                code="not_orthonormal",
            )
    if operation.name == "transport" and bool((tensor[2] > tensor[3]).any()):
        at = int((tensor[2] > tensor[3]).nonzero()[0])
        raise VectorInvalid(
            f"{name}.low is over {name}.high at element {at}; elements between the two are "
            "transported, so low must not be over high",
            param=f"{name}.low",
            code="low_over_high",
        )


def check_direction(norm: float, param: str) -> None:
    """Raise `VectorInvalid`, about `param`, for a direction of this norm that cannot be
    normalised."""
    if norm < SHORTEST:
        raise VectorInvalid(
            f"{param} has a direction that is all zeros, or as good as zero: it points nowhere; "
            "check how it was made",
            param=param,
            code="zero_direction",
        )
    if norm > LONGEST:
        raise VectorInvalid(
            f"{param} has a direction of norm {norm:.3g}, over {LONGEST:g}; only its direction "
            "counts, so divide it by its norm",
            param=param,
            code="direction_too_long",
        )


def written_rows(operation: str, rows: int) -> slice:
    """Which of a vector's rows at a hook point are put into the stream."""
    if operation == "feature":
        return slice(rows // 2, rows)
    return slice(1, 2) if operation == "transport" else slice(0, rows)


def are_rows_of(operation: str, rows: int) -> bool:
    """Whether a vector for `operation` may have this number of rows at a hook point."""
    if operation == "feature":
        return rows % 2 == 0
    return operation == "project" or rows == {"transport": 4, "rotate": 2}.get(operation, 1)


def columns_of(operation: str, rows: int) -> int:
    """Terms that a vector with this number of rows at a hook point needs there."""
    if operation == "feature":
        return rows // 2
    return {"project": rows, "transport": 2}.get(operation, 1)


def _unfit(operation: str, has: str, param: str) -> VectorInvalid:
    needs = ", ".join(f"<site>.<layer>.{part}" for part in _NEEDED.get(operation, ()))
    return VectorInvalid(
        f"the operation {shown(operation)} needs {needs or 'one tensor a hook point'}, and the "
        f"vector has {has}",
        param=param,
        code="operation_needs_tensors",
    )


def check_use(operation: str, own: str, rows: int, steps: bool) -> None:
    """Raise `VectorInvalid` if a vector made for the operation `own`, with `rows` rows at a hook
    point, cannot be used with `operation`. `steps`: each row is for one generation step."""
    if operation == own:
        return
    if not {operation, own} <= ALIKE:
        raise _unfit(operation, f"the tensors of {own}" if own in PARTS else "one", "operation")
    if steps or rows > 1:
        what = "a tensor for each of its steps" if own == "add" else f"{rows} directions"
        raise VectorInvalid(
            f"the vector has {what}, which go with the operation {own!r} and not with "
            f"{operation!r}; leave `operation` out",
            param="operation",
            code="operation_needs_tensors",
        )


def _shape(name: PartName, shape: tuple[int, ...], wanted: str) -> VectorInvalid:
    return VectorInvalid(
        f"tensor {name.text!r} has shape {list(shape[:8])}; it must be {wanted}",
        param=name.text,
        code="bad_shape",
    )
