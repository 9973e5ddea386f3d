"""Dynamic and scheduled requests, each as a plan for the engine and in the reference's words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from steersman.steering.plan import Dynamic, Plan, PlannedVector, WorkerNote
from steersman.steering.plan.plan import as_float32
from steersman.vectors.file.format import SteeringVector
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import Shelf
from tests.reference.dynamic import Composed, Property, compose, likeliest
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Answer

Pick = Callable[[torch.Tensor, Sequence[int]], int]


@dataclass(frozen=True)
class Setting:
    """How a dynamic request is asked for."""

    properties: int = 2
    mean: bool = False
    top_p: float = 0.95
    start: float = 0.25
    cap: float = 0.25
    steps: int = 1
    """Of each property's vector."""
    hold: bool = False
    layers: tuple[int, ...] = (10, 14)
    every: int = 1
    starts: tuple[float, ...] = ()
    """One for each property, as the next two, in place of what they share."""
    top_ps: tuple[float, ...] = ()
    caps: tuple[float, ...] = ()

    @property
    def each_cap(self) -> tuple[float, ...]:
        """The most that each property's coefficient may be."""
        return tuple(map(as_float32, self.caps or (self.cap,) * self.properties))

    def vectors(self, shelf: Shelf) -> list[SteeringVector]:
        seeds = range(self.properties)
        if self.steps == 1:
            return [shelf.vector(seed) for seed in seeds]
        return [shelf.stepped(seed, self.steps) for seed in seeds]

    def plan(self, shelf: Shelf) -> Plan:
        terms = tuple(HookPoint("resid_post", layer) for layer in self.layers)
        vectors = tuple(
            PlannedVector(one.digest, cap, terms, "generation", steps=self.steps, hold=self.hold)
            for one, cap in zip(self.vectors(shelf), self.each_cap, strict=True)
        )
        dynamic = Dynamic(self.start, self.top_p, self.mean, self.every, self.starts, self.top_ps)
        return Plan(vectors, "", dynamic)

    def reference(
        self,
        reference: ReferenceModel,
        shelf: Shelf,
        prompt: tuple[int, ...],
        tokens: int,
        pick: Pick = likeliest,
    ) -> Composed:
        properties = [
            Property(
                {
                    HookPoint("resid_post", layer): one.tensors[HookPoint("resid_post", layer)]
                    for layer in self.layers
                },
                cap,
                self.hold,
                as_float32(self.starts[n]) if self.starts else None,
                self.top_ps[n] if self.top_ps else None,
            )
            for n, (one, cap) in enumerate(zip(self.vectors(shelf), self.each_cap, strict=True))
        ]
        return compose(
            reference, prompt, properties, tokens,
            start=as_float32(self.start), top_p=self.top_p, mean=self.mean, every=self.every,
            pick=pick,
        )  # fmt: skip


def distances(answer: Answer, notes: list[WorkerNote], wanted: Composed) -> tuple[float, float]:
    """How far coefficients and divergences are from the reference's. The tokens must be equal."""
    assert list(answer.tokens) == wanted.tokens
    (note,) = notes
    found = torch.tensor([[c.coefficients, c.divergences] for c in note.choices])
    there = torch.tensor([wanted.coefficients, wanted.divergences]).transpose(0, 1)
    apart = (found - there).abs().amax(dim=(0, 2))
    return float(apart[0]), float(apart[1])
