"""A model with vectors and questions: what a way of running is tried on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from steersman.steering.plan import Plan
from steersman.steering.plan.positions import said
from steersman.vectors.file.format import read_tensors
from steersman.vectors.tensors import HookPoint
from tests.reference.interventions import Intervention
from tests.reference.reference import Term
from tests.support.engine.engine import Ask
from tests.support.matrix import start


@dataclass(frozen=True)
class Bench:
    """A model, the library with its vectors, and the questions."""

    model: Path
    library: Path
    asks: list[Ask]

    def here(self, exams: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """`start.here` with what is on this bench, but for the changes."""
        asks, model = changes.pop("asks", self.asks), changes.pop("model", self.model)
        return start.here(model, self.library, asks, exams or {"standard": {}}, **changes)

    def apart(self, exams: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """`start.apart` with what is on this bench, but for the changes."""
        asks, model = changes.pop("asks", self.asks), changes.pop("model", self.model)
        return start.apart(model, self.library, asks, exams or {"standard": {}}, **changes)

    def tensors(self, digest: str, points: list[HookPoint]) -> Mapping[HookPoint, Tensor]:
        """Those of a vector of the library."""
        path = self.library / "objects" / f"{digest.removeprefix('sha256:')}.safetensors"
        return read_tensors(path, points)

    def terms(self, ask: Ask) -> list[Term]:
        """A request's plan, as the independent reference wants it."""
        found = []
        for v in ask.plan.vectors if ask.plan else ():
            for (site, layer), tensor in self.tensors(v.digest, list(v.terms)).items():
                found.append(Term(site, layer, v.coefficient, tensor, said(v.positions)))
        return found

    def interventions(self, ask: Ask) -> list[Intervention]:
        """The same, with the operation of each vector. Assumption: they have one direction."""
        found = []
        for v in ask.plan.vectors if ask.plan else ():
            for term in self.terms(Ask(ask.prompt, Plan((v,)), ask.tokens)):
                own, tensors = v.operation, {"v": term.vector}
                place = term.site, term.layer, term.coefficient
                one = Intervention(own.name, *place, tensors, own.settings, term.positions)
                found.append(one)
        return found
