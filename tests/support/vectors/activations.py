"""Activations for tests: two sides that differ along a planted direction, as activations look."""

import torch

LAYERS, HIDDEN = 3, 24


def two_sides(
    seed: int,
    positive: int,
    negative: int | None = None,
    *,
    layers: int = LAYERS,
    hidden: int = HIDDEN,
    gap: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [samples, layers, hidden] on each side, the sides `gap` apart.

    Samples of one number share what is not the property, as pairs do. Dimension 0 is a hundred
    times as large as the others, as in real residual streams.
    """
    negative = positive if negative is None else negative
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    shared = noise(max(positive, negative), layers, hidden)
    shared[..., 0] = 100 + 10 * shared[..., 0]
    # The pairs differ by more or less of the property, so that the differences have a component.
    planted = gap * noise(layers, hidden)
    amount = 1 + 0.5 * noise(max(positive, negative), 1, 1)
    plus = shared + amount * planted / 2 + 0.3 * noise(*shared.shape)
    minus = shared - amount * planted / 2 + 0.3 * noise(*shared.shape)
    return plus[:positive].contiguous(), minus[:negative].contiguous()


def cosines(one: torch.Tensor, other: object) -> torch.Tensor:
    """Cosine along the last axis, float64."""
    first = one.to(torch.float64)
    second = torch.as_tensor(other, dtype=torch.float64)
    assert first.shape == second.shape
    return torch.cosine_similarity(first, second, dim=-1)


def assert_same_direction(one: torch.Tensor, other: object) -> None:
    """The bar of the issue, at every layer; what is measured here is far nearer to 1."""
    assert one.dtype == torch.float32
    assert float(cosines(one, other).min()) >= 0.9999
