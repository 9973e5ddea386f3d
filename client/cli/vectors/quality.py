"""The measures of an extraction, layer by layer."""

import json
from collections.abc import Mapping
from typing import Any

from steersman.client.cli import show


def quality_table(vector: Mapping[str, Any]) -> bool:
    """Print the measures in a vector's metadata, with the recommended layer marked. Returns False
    if it has none. `vector`: as the server shows it."""
    quality = vector["method_settings"].get("quality")
    if isinstance(quality, Mapping) and quality.get("trials"):
        _trials_table(vector["id"], quality)
        return True
    if not isinstance(quality, Mapping) or not vector["norms"]:
        return False
    if isinstance(gate := vector["method_settings"].get("gate"), Mapping):
        _condition_table(vector["id"], quality, gate)
        return True
    advice = quality.get("recommended") or {}
    rows, marked = [], []
    for n, name in enumerate(sorted(vector["norms"], key=_place)):
        chosen = name.rpartition(".")[2] == str(advice.get("layer"))
        if chosen:
            marked.append(n)
        rows.append(
            (
                name,
                show.number(_at(quality, "separation", name)),
                show.number(_at(quality, "split_half_cosine", name)),
                show.number(vector["norms"][name]),
                show.number(_at(quality, "relative_norms", name)),
                "<- recommended" if chosen else "",
            )
        )
    columns = ("tensor", "separation", "split-half cosine", "norm", "relative norm")
    show.table((*columns, ""), rows, title=vector["id"], numbers=columns[1:], marked=marked)
    null = quality.get("null")
    if isinstance(null, Mapping):
        at = null["separation"]
        show.note(
            f"with shuffled labels, the separation at layer {null['layer']} is "
            f"{at['mean']:.2f} ± {at['sd']:.2f}"
        )
    if not advice and quality.get("reason"):
        show.result(f"not recommended: {quality['reason']}")
    if advice:
        low, high = advice["range"]
        show.result(
            f"recommended: layer {advice['layer']}, coefficient {advice['coefficient']:.4g} "
            f"({low:.3g} to {high:.3g}), by {advice['basis']}"
        )
    return True


def _condition_table(name: str, quality: Mapping[str, Any], gate: Mapping[str, Any]) -> None:
    """Print the measures of a condition, and the gate as a request has it."""
    tensors = sorted(quality["f1"], key=_place)
    measures = ("f1", "held_out_f1")
    show.table(
        ("tensor", "F1", "held-out F1"),
        [(one, *(show.number(_at(quality, measure, one)) for measure in measures))
         for one in tensors],
        title=name,
        numbers=("F1", "held-out F1"),
        marked=[n for n, one in enumerate(tensors) if _place(one)[1] == gate["layer"]],
    )  # fmt: skip
    if isinstance(null := quality.get("null"), Mapping):
        at = null["held_out_f1"]
        show.note(
            f"with shuffled labels, the best layer's held-out F1 is {at['mean']:.2f} ± "
            f"{at['sd']:.2f}; a condition that always holds has {quality['always']:.2f}"
        )
    if quality.get("reason"):
        show.result(f"not recommended: {quality['reason']}")
    show.result(f"gate: {json.dumps({'id': name, **gate})}")


def _trials_table(name: str, quality: Mapping[str, Any]) -> None:
    """Print what came of each candidate, the one that was taken marked."""
    trials = quality["trials"]
    columns = ("position", "layer", "separation", "bypass", "divergence")
    keys = ("separation", "bypass", "kl")
    show.table(
        columns,
        [
            (str(one["position"]), str(one["layer"]), *(show.number(one[key]) for key in keys))
            for one in trials
        ],
        title=name,
        numbers=columns,
        marked=[n for n, one in enumerate(trials) if one == quality["chosen"]],
    )
    null = quality["null"]["bypass"]
    tokens = " ".join(repr(token["text"]) for token in quality["behaviour"])
    show.note(
        f"bypass is of the log-odds that an answer begins with {tokens}: "
        f"{quality['baseline']['positive']:.2f} unsteered, {null['mean']:.2f} ± {null['sd']:.2f} "
        "without directions of shuffled labels"
    )
    if quality.get("reason"):
        show.result(f"not recommended: {quality['reason']}")


def _place(name: str) -> tuple[str, int]:
    site, _, layer = name.rpartition(".")
    return site, int(layer)


def _at(quality: Mapping[str, Any], measure: str, name: str) -> float | None:
    found = quality.get(measure)
    return found.get(name) if isinstance(found, Mapping) else None
