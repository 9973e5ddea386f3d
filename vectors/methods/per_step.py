"""A vector for each generation step, for dynamic composition.

Scalena, Sarti and Nissim 2024, "Multi-property Steering of Large Language Models with Dynamic
Activation Composition". At step i of greedy generation (step 0 reads the last prompt token) the
input of the attention's output projection is read at the last token, in every layer; the vector of
step i is the mean over A's texts still alive at step i minus that over B's. Texts end at different
steps, so the two means need not be of as many.

The paper adds the vector where it was read. A linear projection W turns that addition of u exactly
into an addition of W u to the attention's output, `attn_out`; a bias adds to both and cancels. So
the samples are read there, behind the projection: the difference of their means is W u. It is not
where a norm follows the projection (such models have no `attn_out`), nor where the projection's
input is quantised: the caller refuses both.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import MIN_SAMPLES, Mean, check_differ, check_sample, gap

MAX_STEPS: Final = 30
"""As many as the paper's."""


class StepMeans:
    """One side's mean at each step; samples are not kept. `alive[i]` texts reached step i."""

    def __init__(self, side: str = "samples") -> None:
        self.side = side
        self.means: list[Mean] = []

    @property
    def alive(self) -> tuple[int, ...]:
        """Samples counted at each step."""
        return tuple(mean.count for mean in self.means)

    def add(self, samples: torch.Tensor | Iterable[torch.Tensor]) -> None:
        """Count one text: its sample [layers, width], float32, at step 0, 1, ... until it ended.

        Raises `ActivationsInvalid` and then counts none of them.
        """
        steps = list(samples)
        new = range(len(self.means), len(steps))
        means = self.means + [Mean(f"{self.side} at step {step}") for step in new]
        shape = means[0].shape if means else None
        for mean, sample in zip(means, steps, strict=False):
            check_sample(sample, mean.side, mean.count, shape)
            shape = tuple(sample.shape)
        for mean, sample in zip(means, steps, strict=False):
            mean.add(sample)
        self.means = means


class StepDifference(NamedTuple):
    """`vectors`: float32 [steps, layers, width]. `alive_*[i]`: texts that step i rests on."""

    vectors: torch.Tensor
    alive_positive: tuple[int, ...]
    alive_negative: tuple[int, ...]


def step_difference(
    positive: StepMeans, negative: StepMeans, max_steps: int = MAX_STEPS, min_alive: int = 1
) -> StepDifference:
    """mean(positive) - mean(negative) at each step, up to the last with `min_alive` on both sides.

    Step 0 needs two texts a side. The two sides may be the same at some steps, not at all. Raises
    `ActivationsInvalid`.
    """
    found, differs = [], []
    for step, (plus, minus) in enumerate(
        zip(positive.means[:max_steps], negative.means[:max_steps], strict=False)
    ):
        if step > 0 and min(plus.count, minus.count) < max(min_alive, 1):
            break
        least = MIN_SAMPLES if step == 0 else 1
        vector, differ = gap(plus.value(least), minus.value(least))
        found.append(vector)
        differs.append(differ)
    if not found:
        raise ActivationsInvalid(
            "there are no texts on one of the sides, or no steps", code="too_few_rows"
        )
    check_differ(torch.stack(differs).any(dim=0))
    steps = len(found)
    vectors = torch.stack(found).to(torch.float32)
    return StepDifference(vectors, positive.alive[:steps], negative.alive[:steps])
