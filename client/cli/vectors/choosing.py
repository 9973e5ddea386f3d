"""Which features of a sparse autoencoder to import, by what they do on texts at the server."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from steersman.client import paths
from steersman.client.cli import show
from steersman.client.cli.vectors.texts import read_lines
from steersman.client.errors import WrongUsage

if TYPE_CHECKING:
    from torch import Tensor

    from steersman.client.http import Client

AT_ONCE: Final = 16
"""Texts in one request for activations, which bounds the file that comes back."""


class FeaturesBy(StrEnum):
    """What features are chosen by."""

    CONTRAST = "contrast"
    ACTIVATION = "activation"


class Choice(NamedTuple):
    """What the options say of a choice."""

    by: FeaturesBy
    texts: Mapping[str, Sequence[str]]
    """By side: "positive", and of a contrast "negative"."""
    top: int
    """How many features."""


def read_choice(
    by: FeaturesBy | None, positive: Path | None, negative: Path | None, top: int | None
) -> Choice | None:
    """The choice that the options ask for, if they do. Raises `WrongUsage` for options that do not
    go together."""
    if by is None:
        for option, value in (("--positive", positive), ("--negative", negative), ("--top", top)):
            if value is not None:
                raise WrongUsage(
                    f"{option} is for a choice of features",
                    param=option,
                    remedy="add --features-by",
                )
        return None
    if positive is None:
        raise WrongUsage("features are chosen by what they do on texts", param="--positive")
    sides = {"positive": read_lines(positive, "--positive")}
    if by is FeaturesBy.CONTRAST:
        if negative is None:
            raise WrongUsage("one side is measured against the other", param="--negative")
        sides["negative"] = read_lines(negative, "--negative")
    elif negative is not None:
        raise WrongUsage(
            "by activation there is one side",
            param="--negative",
            remedy="leave it out, or choose by contrast",
        )
    return Choice(by, sides, 4 if top is None else top)


def choose(
    client: "Client", path: Path, choice: Choice, layer: int | None, site: str | None
) -> dict[str, Any]:
    """The features and why these, as a vector's metadata have it (`steersman.vectors.methods.sae`).
    Raises `Refused`, and `VectorInvalid` for a file that cannot be read."""
    from steersman.vectors.formats import feature_blocks
    from steersman.vectors.methods.sae import by_activation, by_contrast, strongest
    from steersman.vectors.tensors import tensor_name

    point, _ = feature_blocks(path, layer=layer, site=site)
    found = {}
    for side, texts in choice.texts.items():
        tokens: list[Tensor] = []
        for first in range(0, len(texts), AT_ONCE):
            tokens += _tokens(client, texts[first : first + AT_ONCE], tensor_name(point))
        _, blocks = feature_blocks(path, layer=layer, site=site)
        found[side] = strongest(tokens, blocks)
    if choice.by is FeaturesBy.CONTRAST:
        return by_contrast(found["positive"], found["negative"], choice.top)
    return by_activation(found["positive"], choice.top)


def print_choice(said: Mapping[str, Any]) -> None:
    """Print the features that were chosen, and how much that says."""
    key = "auroc" if said["by"] == "contrast" else "mean"
    for one in said["features"]:
        show.note(f"feature {one['feature']}: {key} {one[key]:.3g}")
    if null := said.get("null"):
        at = null["auroc"]
        show.note(
            f"on texts held out the best feature has {said['held_out_auroc']:.2f}; with shuffled "
            f"labels {at['mean']:.2f} ± {at['sd']:.2f}"
        )
    if said.get("reason"):
        show.note(f"warning: {said['reason']}")


def _tokens(client: "Client", texts: Sequence[str], name: str) -> "list[Tensor]":
    """The stream at a hook point for each text, float32 [tokens, hidden], without the first
    token."""
    from safetensors.torch import load

    body = {"texts": list(texts), "hook_points": [name], "tokens": "all"}
    read = load(client.posted(paths.ACTIVATIONS, body))
    offsets = read["offsets"].tolist()
    return [read[name][start + 1 : stop] for start, stop in pairwise(offsets)]
