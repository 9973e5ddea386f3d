"""A model with vectors and questions: what a way of running is tried on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.steering.plan import Plan
from steersman.steering.plan.positions import said
from steersman.vectors.file.format import read_tensors
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

    def terms(self, ask: Ask) -> list[Term]:
        """A request's plan, as the independent reference wants it."""
        found = []
        for v in ask.plan.vectors if ask.plan else ():
            path = self.library / "objects" / f"{v.digest.removeprefix('sha256:')}.safetensors"
            for (site, layer), tensor in read_tensors(path, list(v.terms)).items():
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
