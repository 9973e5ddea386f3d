"""Vectors for each operation, in the library, in plans, and as the reference has them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steersman.steering.plan import PlannedVector, PositionRule
from steersman.steering.plan.plan import as_float32
from steersman.steering.plan.positions import said
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.operation import OPERATIONS, Operation
from steersman.vectors.tensors import HookPoint
from tests.reference.interventions import Intervention

READING = OPERATIONS[1:]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "add": [{}],
    "project": [{}],
    "clamp": [{"min": 0.1, "max": 0.3}, {"min": -0.2}, {"max": 0.1}],
    "feature": [{"value": 0.5}, {"multiply": 3.0}, {"multiply": 0.0}],
    "transport": [{}],
    "rotate": [{"angle": 40.0}, {"angle": -130.0, "adaptive": True}],
    "replace": [{}],
}
"""Some settings of each; those that are lengths in the stream's norm."""


class Operations:
    """Random vectors for each operation at every site and layer of a model."""

    def __init__(self, library: Library, norms: dict[str, list[float]], hidden: int) -> None:
        """`norms`: by site, the typical norm of the stream at each layer."""
        self.library = library.root
        self._library = library
        self._norms = norms
        self._hidden = hidden
        self._made: dict[tuple[str, int, bool], SteeringVector] = {}

    def vector(self, name: str, seed: int, *, basis: bool = False) -> SteeringVector:
        """The vector of this operation and seed, in the library. `basis`: of two directions."""
        key = (name, seed, basis)
        if key not in self._made:
            generator = torch.Generator().manual_seed(10_000 + seed)
            tensors, numbers = {}, {}
            for site, norms in self._norms.items():
                for layer, norm in enumerate(norms):
                    point = HookPoint(site, layer)
                    tensors[point] = self._rows(name, norm, generator, basis=basis)
                    if name == "feature":
                        numbers[point] = torch.tensor([[0.02 * norm], [0.05 * norm]])
            vector = SteeringVector(tensors, operation=Operation(name), numbers=numbers)
            # Models of other sizes may share the library.
            self._library.add(write_vector(vector), f"{name}-{seed}-{vector.digest[7:15]}")
            self._made[key] = vector
        return self._made[key]

    def _rows(self, name: str, norm: float, generator: torch.Generator, *, basis: bool) -> Tensor:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        if name == "feature":
            rows = normal(2, self._hidden)
            unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
            return unit
        if name == "rotate" or basis:
            plane: Tensor = torch.linalg.qr(normal(self._hidden, 2)).Q.T.contiguous()
            return plane
        if name == "transport":
            size = norm / self._hidden**0.5
            rows = normal(4, self._hidden)
            rows[0] = 1 + 0.2 * rows[0]
            rows[1] *= 0.2 * size
            rows[2], rows[3] = -2.0 * size, 2.0 * size
            return rows
        row = normal(self._hidden)
        long: Tensor = row * (norm / row.norm())
        return long

    def planned(
        self,
        name: str,
        seed: int,
        coefficient: float,
        terms: tuple[HookPoint, ...],
        positions: PositionRule = "generation",
        settings: dict[str, Any] | None = None,
        *,
        basis: bool = False,
        schedule: tuple[float, ...] = (),
    ) -> PlannedVector:
        """A use of it. `min`, `max` and `value` of `settings` are in norms of the stream."""
        vector = self.vector(name, seed, basis=basis)
        settings = dict(SETTINGS[name][0] if settings is None else settings)
        norms = [self._norms[site][layer] for site, layer in terms]
        units: tuple[float, ...] = ()
        if name == "clamp":
            units = tuple(map(as_float32, norms))
        elif "value" in settings:
            settings["value"] *= norms[0]
        rows = vector.tensors[terms[0]]
        return PlannedVector(
            vector.digest,
            as_float32(coefficient),
            terms,
            positions,
            schedule,
            operation=Operation(name, **settings),
            rows=1 if rows.dim() == 1 else len(rows),
            units=units,
        )

    def interventions(self, planned: PlannedVector) -> list[Intervention]:
        """What the reference does for a use without a schedule."""
        operation = planned.operation
        (vector,) = (v for v in self._made.values() if v.digest == planned.digest)
        positions = said(planned.positions)
        found = []
        for n, point in enumerate(planned.terms):
            rows, settings = vector.tensors[point], dict(operation.settings)
            for key in ("min", "max") if planned.units else ():
                if key in settings:
                    settings[key] *= planned.units[n]
            if operation.name == "feature":
                bias, threshold = vector.numbers[point][:, 0].tolist()
                settings |= {"bias": bias, "threshold": threshold}
            parts: dict[str, tuple[str, ...]] = {
                "feature": ("encoder", "decoder"),
                "transport": ("weight", "bias", "low", "high"),
                "rotate": ("b1", "b2"),
            }
            names = parts.get(operation.name)
            tensors = {"v": rows} if names is None else dict(zip(names, rows, strict=True))
            found.append(
                Intervention(
                    operation.name, *point, planned.coefficient, tensors, settings, positions
                )
            )
        return found


Make = Callable[..., PlannedVector]
