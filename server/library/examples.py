"""Examples of every field that requests send us, for the OpenAPI document."""

from typing import Any, Final

_STEERING: Final[dict[str, Any]] = {"vectors": {"cheerful": 1.5}}
_TEXTS: Final = ["What a lovely day it is.", "I am so glad that you came."]
_OTHERS: Final = ["What a dreary day it is.", "I am sorry that you came."]

EXAMPLES: Final[dict[str, dict[str, list[Any]]]] = {
    "SteeringField": {
        "vectors": [{"cheerful": 1.5}, [{"id": "cheerful", "coefficient": 1.5, "layers": [14]}]],
        "dynamic": [{"kl": "sum"}],
        "schedule": ["start", [2.0, 1.0, 0.5]],
        "over": [40],
        "after": ["hold"],
        "keep_norm": [True],
        "read": [[{"id": "honesty", "layers": [14], "measure": "cosine", "tokens": "answer"}]],
    },
    "ReadUse": {
        "id": ["honesty", "honesty@d349ee3c9b66"],
        "layers": [[14]],
        "measure": ["cosine"],
        "tokens": ["prompt"],
    },
    "VectorUse": {
        "id": ["cheerful", "cheerful@d349ee3c9b66"],
        "data": ["UAAAAAAAAAB7InJlc2lkX3Bvc3QuMTQi..."],
        "coefficient": [1.5],
        "scale": [1.5],
        "layers": [[14, 16]],
        "positions": ["all", {"start": 0, "stop": 8}, {"after": "</think>"}],
        "operation": ["project"],
        "min": [-2.0],
        "max": [4.0],
        "unit": ["median_norm"],
        "value": [8.0],
        "multiply": [2.0],
        "angle": [90.0],
        "adaptive": [True],
        "schedule": ["diminishing", [2.0, 1.0, 0.5]],
        "over": [40],
        "after": ["hold"],
        "gate": [{"id": "harmful", "layer": 10, "measure": "cosine", "above": 0.3}],
        "dynamic": [{"start": 1.0, "max": 0.5}],
    },
    "GateUse": {
        "id": ["harmful"],
        "layer": [10],
        "measure": ["cosine"],
        "above": [0.3],
        "below": [0.1],
        "over": ["prompt_mean"],
    },
    "PositionRange": {"start": [0], "stop": [8]},
    "AnswerRange": {"start": [4], "stop": [9], "of": ["answer"]},
    "MarkerRule": {"after": ["</think>", [151668]], "until": ["</think>"]},
    "DynamicComposition": {
        "start": [2.0],
        "max": [2.0],
        "top_p": [0.95],
        "kl": ["sum"],
        "every": [1],
    },
    "PropertyComposition": {"start": [1.0], "max": [0.5], "top_p": [0.5]},
    "PresetCreate": {
        "name": ["sunny"],
        "steering": [_STEERING],
        "follow": [False],
        "description": ["Warm and upbeat."],
    },
    "PresetPatch": {
        "steering": [_STEERING],
        "follow": [True],
        "description": ["Warm and upbeat."],
    },
    "VectorPatch": {
        "description": ["Cheerful and warm, against gloomy and bitter."],
        "coefficient": [1.5],
        "layers": [[14, 16]],
        "positions": ["all"],
        "safe_range": [[-2.0, 2.0]],
        "digest": ["sha256:d349ee3c9b66"],
    },
    "ExtractRequest": {
        "method": ["mean_difference"],
        "name": ["glad"],
        "description": ["Glad, against sorry."],
        "pairs": [[[one, other] for one, other in zip(_TEXTS, _OTHERS, strict=True)]],
        "positive": [_TEXTS],
        "negative": [_OTHERS],
        "styles": [{"glad": _TEXTS, "sorry": _OTHERS}],
        "prompt": ["How was your day?"],
        "site": ["resid_post"],
        "layers": [[12, 14, 16]],
        "tokens": ["mean"],
        "steps": [16],
        "settings": [{}],
        "unit_dose": [0.1],
        "seed": [0],
        "created_at": ["2026-01-01T00:00:00+00:00"],
        "licence": ["Apache-2.0"],
        "reproducible": [False],
    },
}
"""By the title of a schema and the field."""


def add_examples(value: Any) -> None:
    """Put the examples into the schemas of an OpenAPI document, wherever they are in `value`."""
    if isinstance(value, list):
        for part in value:
            add_examples(part)
    if not isinstance(value, dict):
        return
    found = EXAMPLES.get(str(value.get("title")), {})
    for name, field in (value.get("properties") or {}).items() if found else ():
        if isinstance(field, dict) and name in found:
            # A reference may have no neighbours in some readers' eyes: it becomes one of one.
            if "$ref" in field:
                field["allOf"] = [{"$ref": field.pop("$ref")}]
            field["examples"] = found[name]
    for part in value.values():
        add_examples(part)
