"""Activations: what capture makes of one text.

A sample is float32 [layers, width]: one token's activation, or a mean over tokens, at one site of
each requested layer. The rule that chose the tokens was applied during capture. Width is the
hidden size, or heads * head_dim at the attention's output projection. Activations come one at a
time, or as a tensor [samples, layers, width], which may be a memory-mapped file: it is read one
sample or one layer at a time.

Sums are float64. The same samples in another order may change the last bit of a sum: give them in
the order of their texts.
"""

from collections.abc import Iterable
from typing import Final, Self

import torch

from steersman.vectors.errors import ActivationsInvalid

Activations = torch.Tensor | Iterable[torch.Tensor]
"""A tensor [samples, layers, width], or samples [layers, width] one after another; float32."""

MIN_SAMPLES: Final = 2
"""Fewer than this is not a mean, and has no halves to compare."""

NOISE: Final = 1e-6
"""Sides whose means differ by less, relative to their length, are one side: capture in float32
cannot tell them apart."""


class Mean:
    """The mean of samples that are not kept; `side` names them in errors.

    `add` raises `ActivationsInvalid` and leaves the mean as it was, so that a job can leave a bad
    sample out and go on.
    """

    def __init__(self, side: str = "samples") -> None:
        self.side = side
        self.count = 0
        self._sum: torch.Tensor | None = None

    @classmethod
    def of(cls, samples: Activations, side: str) -> Self:
        """The mean of `samples`."""
        mean = cls(side)
        for sample in samples:
            mean.add(sample)
        return mean

    @property
    def shape(self) -> tuple[int, ...] | None:
        """[layers, width], once there is a sample."""
        return None if self._sum is None else tuple(self._sum.shape)

    def add(self, sample: torch.Tensor) -> None:
        """Count one sample [layers, width], float32."""
        check_sample(sample, self.side, self.count, self.shape)
        wide = sample.to("cpu", torch.float64)
        self._sum = wide if self._sum is None else self._sum.add_(wide)
        self.count += 1

    def value(self, min_samples: int = MIN_SAMPLES) -> torch.Tensor:
        """float64 [layers, width]; raises `ActivationsInvalid` with fewer than `min_samples`."""
        check_count(self.count, self.side, min_samples)
        assert self._sum is not None  # check_count has seen to it
        return self._sum / self.count


def check_sample(
    sample: torch.Tensor, side: str, number: int, shape: tuple[int, ...] | None = None
) -> None:
    """Raise `ActivationsInvalid`, naming sample `number` of `side`, unless it is a valid sample."""
    where = f"sample {number} of {side}"
    if (
        sample.ndim != 2
        or 0 in sample.shape
        or (shape is not None and tuple(sample.shape) != shape)
    ):
        wanted = "[layers, width]" if shape is None else f"{list(shape)} as the samples before it"
        raise ActivationsInvalid(
            f"{where} has shape {list(sample.shape)}; it must be {wanted}",
            code="bad_shape", param=side, samples=[number],
        )  # fmt: skip
    if sample.dtype != torch.float32:
        raise ActivationsInvalid(
            f"{where} is {str(sample.dtype).removeprefix('torch.')}; samples are float32",
            code="wrong_dtype", param=side, samples=[number],
        )  # fmt: skip
    sound = torch.isfinite(sample).all(dim=-1)
    if not bool(sound.all()):
        layers = [int(layer) for layer in (~sound).nonzero()[:, 0]]
        raise ActivationsInvalid(
            f"{where} holds NaN or infinite values; leave it out",
            code="not_finite", param=side, samples=[number], layers=layers,
        )  # fmt: skip


def stacked(samples: Activations, side: str) -> torch.Tensor:
    """float32 [samples, layers, width], every sample checked; a tensor is not copied.

    Raises `ActivationsInvalid`.
    """
    checked: list[torch.Tensor] = []
    for number, sample in enumerate(samples):
        check_sample(sample, side, number, tuple(checked[0].shape) if checked else None)
        checked.append(sample)
    check_count(len(checked), side)
    return samples if isinstance(samples, torch.Tensor) else torch.stack(checked)


def stacked_sides(
    positive: Activations, negative: Activations, *, paired: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides as float32 [samples, layers, width]; as many samples on each if they are pairs."""
    sides = stacked(positive, "positive"), stacked(negative, "negative")
    check_same_shape(tuple(sides[0].shape[1:]), tuple(sides[1].shape[1:]))
    if paired:
        check_paired(len(sides[0]), len(sides[1]))
    return sides


def check_count(count: int, side: str, min_samples: int = MIN_SAMPLES) -> None:
    """Raise `ActivationsInvalid` with fewer than `min_samples`."""
    if count < min_samples:
        raise ActivationsInvalid(
            f"{side} has {count} usable samples; at least {min_samples} are needed",
            code="too_few_rows", param=side,
        )  # fmt: skip


def check_paired(positive: int, negative: int) -> None:
    """Raise `ActivationsInvalid` unless every sample has its counterpart."""
    if positive != negative:
        raise ActivationsInvalid(
            f"there are {positive} positive samples and {negative} negative ones; this method "
            "takes pairs: give a counterpart for each, or use mean_difference",
            code="unpaired",
        )


def check_same_shape(positive: tuple[int, ...], negative: tuple[int, ...]) -> None:
    """Raise `ActivationsInvalid` unless both sides have the same layers and width."""
    if positive != negative:
        raise ActivationsInvalid(
            f"positive samples have shape {list(positive)} and negative samples {list(negative)}",
            code="bad_shape",
        )


def difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """positive - negative of two means [layers, width], float64 to float32.

    Raises `ActivationsInvalid` naming the layers where the two are the same.
    """
    found, differs = gap(positive, negative)
    check_differ(differs)
    return found.to(torch.float32)


def gap(positive: torch.Tensor, negative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The difference positive - negative of two means, [layers, width]; and whether they differ at
    each layer, bool [layers]."""
    check_same_shape(tuple(positive.shape), tuple(negative.shape))
    found = positive - negative
    scale = torch.maximum(positive.norm(dim=-1), negative.norm(dim=-1))
    return found, found.norm(dim=-1) > NOISE * scale


def check_differ(differs: torch.Tensor) -> None:
    """Raise `ActivationsInvalid` naming the places where bool [layers] `differs` is false."""
    same = [int(layer) for layer in (~differs).nonzero()[:, 0]]
    if same:
        raise ActivationsInvalid(
            f"the two sides do not differ at {len(same)} of {len(differs)} layers (the first at "
            f"place {same[0]}): there is no direction between them; leave these layers out, or "
            "read other tokens",
            code="identical_sides", layers=same,
        )  # fmt: skip
