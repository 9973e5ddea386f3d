"""The principal component of paired differences, from representation engineering.

Zou et al. 2023, "Representation Engineering: A Top-Down Approach to AI Transparency", as
implemented by repeng: per layer the first principal component of the pairs, of length 1, pointing
to the side that the majority of positive samples lies on.

`pca_diff` is the component of h+ - h-; principal component analysis centres, so what all pairs
have in common, their mean difference, is removed. `pca_center` is the component of h+ and h-, each
minus its pair's midpoint; their mean is zero already, so the mean difference stays in.
"""

from typing import Final, Literal, get_args

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import NOISE, Activations, check_differ, stacked_sides

Centring = Literal["pca_diff", "pca_center"]
CENTRINGS: Final[tuple[Centring, ...]] = get_args(Centring)


def principal_component(
    positive: Activations, negative: Activations, centring: Centring = "pca_diff"
) -> torch.Tensor:
    """The first principal component of pairs, of length 1: float32 [layers, hidden].

    positive, negative: samples [layers, hidden], float32, sample i of one being the counterpart of
    sample i of the other. Raises `ActivationsInvalid`; with `pca_diff` also if the difference is
    the same in all pairs.
    """
    if centring not in CENTRINGS:
        raise ActivationsInvalid(
            f"centring must be one of {', '.join(CENTRINGS)}, not {centring!r}",
            code="bad_setting", param="centring",
        )  # fmt: skip
    plus, minus = stacked_sides(positive, negative, paired=True)
    found = torch.empty(plus.shape[1:], dtype=torch.float64)
    differs = torch.empty(plus.shape[1], dtype=torch.bool)
    for layer in range(plus.shape[1]):
        high = plus[:, layer].to(torch.float64)
        gap = high - minus[:, layer].to(torch.float64)
        component, spread = _first(gap if centring == "pca_diff" else torch.cat([gap, -gap]) / 2)
        differs[layer] = spread > NOISE * float(high.norm(dim=-1).max())
        found[layer] = component * _sign(gap, component)
    check_differ(differs)
    return found.to(torch.float32)


def _first(samples: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The first component of float64 [samples, hidden], and the standard deviation along it."""
    from sklearn.decomposition import PCA

    if not bool((samples != samples[0]).any()):
        # PCA would divide by the variance, which is zero.
        return torch.zeros(samples.shape[1], dtype=torch.float64), 0.0
    # The default solver is a randomised one for some shapes: not the same twice, and not exact.
    pca = PCA(n_components=1, svd_solver="full").fit(samples.numpy())
    return torch.from_numpy(pca.components_[0]), float(pca.explained_variance_[0]) ** 0.5


def _sign(gap: torch.Tensor, component: torch.Tensor) -> float:
    """1 if more positive samples lie further along `component` than negative ones, -1 if fewer."""
    along = gap @ component
    votes = int((along > 0).sum()) - int((along < 0).sum())
    # A tie goes to the mean, so that the sign does not hang on the solver.
    return -1.0 if votes < 0 or (votes == 0 and float(along.sum()) < 0) else 1.0
