"""Makes vectors of captured activations: `METHODS` lists the methods and what each needs.

    caa               mean of positive - negative over pairs, at the answer's letter
    style             one style's mean minus that of all others
    mean_difference   mean(A) - mean(B)
    repe              first principal component of pairs, length 1
    probe             weights of a logistic regression, length 1 or the mean difference along them
    per_step          mean(A) - mean(B) at each generation step, at `attn_out`
    act_linear        a line for each element that takes B's values to A's (activation transport)
    act_mean          the same with the shift of the means alone
    directional_ablation   the direction without which the model no longer does something
    cast_condition    a direction for a gate, and its best layer and threshold

All are plain functions; each module's docstring names the paper.
`steersman.vectors.methods.quality` measures the results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import Activations
from steersman.vectors.methods.caa import caa, rescale
from steersman.vectors.methods.cast import DIRECTIONS, condition_direction
from steersman.vectors.methods.mean_difference import mean_difference
from steersman.vectors.methods.per_step import StepDifference, StepMeans, step_difference
from steersman.vectors.methods.probe import probe_direction
from steersman.vectors.methods.repe import CENTRINGS, principal_component
from steersman.vectors.methods.transport import SUPPORTS, act_linear, act_mean
from steersman.vectors.tensors import SITES

__all__ = [
    "METHODS",
    "PROJECTION_INPUT",
    "Activations",
    "ActivationsInvalid",
    "Method",
    "StepDifference",
    "StepMeans",
    "TokenRule",
    "act_linear",
    "act_mean",
    "caa",
    "condition_direction",
    "mean_difference",
    "principal_component",
    "probe_direction",
    "rescale",
    "step_difference",
]

TokenRule = Literal["last", "answer", "mean", "steps", "prompt", "template"]
"""Which tokens of a text make its sample: the last; the letter of the answer in "(A)"; the mean
over the response's tokens (the sequence's first token excluded); the last token of each greedy
step; the mean over all tokens, the first among them; each token that the chat template has behind
a user's message, by itself."""

PROJECTION_INPUT: Final = "attn_projection_input"
"""What per_step is about: the input of the attention's output projection. It is read behind the
projection, at `attn_out`, which is the same thing where the projection is linear."""

Fit = Callable[..., torch.Tensor]
"""(positive, negative, **settings) -> float32 [layers, hidden]; see `Method.fit`."""


@dataclass(frozen=True)
class Method:
    """What a method needs, for a caller who checks a request before capturing anything.

    `inputs`: "pairs" (each positive sample has its counterpart), "sides" (two groups of any sizes)
    or "styles" (two or more named groups). `token_rules` and `sites` are what it allows, its
    default first: what the paper reads, where it is about that (caa, style). `settings` are the
    keywords of `fit`, or of the trials: allowed values for a choice, else the type.

    `fit` makes the directions of one side against another, from the samples alone; a style's other
    side is all other styles' samples together. per_step has none: it is not a matter of samples.
    """

    inputs: Literal["pairs", "sides", "styles"]
    token_rules: tuple[TokenRule, ...]
    fit: Fit | None
    sites: tuple[str, ...] = ("resid_post", *(site for site in SITES if site != "resid_post"))
    settings: Mapping[str, tuple[Any, ...] | type] = field(default_factory=dict)
    operation: str = "add"
    """What is done with what it makes. `fit` of another than `add` gives the rows of that operation
    (`steersman.vectors.parts`): [layers, rows, hidden]."""
    asks: bool = False
    """Whether a plain text is a prompt: a user's message, where the model has a chat template."""
    trials: bool = False
    """Whether candidates are tried on the engine before one is taken; then `fit` is None."""
    gates: bool = False
    """Whether a gate measures with what it makes: its measures are those of a condition."""
    requires: tuple[str, str] | None = None
    """A module without which `fit` cannot run, and the distribution that has it: an installation
    with `--no-deps` lacks it."""

    @property
    def missing(self) -> str | None:
        """The distribution that must be installed first; None if there is none."""
        if self.requires is None or find_spec(self.requires[0]) is not None:
            return None
        return self.requires[1]

    @property
    def paired(self) -> bool:
        """Whether sample i of one side is the counterpart of sample i of the other."""
        return self.inputs == "pairs"


_SKLEARN: Final = ("sklearn", "scikit-learn")

METHODS: Final[Mapping[str, Method]] = {
    "caa": Method("pairs", ("answer", "last"), caa),
    "style": Method("styles", ("last", "mean"), mean_difference),
    "mean_difference": Method("sides", ("mean", "last"), mean_difference),
    "repe": Method(
        "pairs",
        ("mean", "last"),
        principal_component,
        settings={"centring": CENTRINGS},
        requires=_SKLEARN,
    ),
    "probe": Method(
        "sides",
        ("mean", "last", "answer"),
        probe_direction,
        settings={"c": float, "length": ("unit", "scaled")},
        requires=_SKLEARN,
    ),
    "act_linear": Method(
        "sides",
        ("mean", "last"),
        act_linear,
        settings={"support": SUPPORTS},
        operation="transport",
    ),
    "act_mean": Method("sides", ("mean", "last"), act_mean, operation="transport"),
    "directional_ablation": Method(
        "sides",
        ("template",),
        None,
        sites=("resid_post",),
        settings={"candidates": int},
        operation="project",
        asks=True,
        trials=True,
    ),
    "cast_condition": Method(
        "sides",
        ("prompt", "last"),
        condition_direction,
        settings={"direction": DIRECTIONS},
        asks=True,
        gates=True,
        requires=_SKLEARN,
    ),
    "per_step": Method("sides", ("steps",), None, sites=(PROJECTION_INPUT, "attn_out")),
}
"""Every method by the name that a request gives."""
