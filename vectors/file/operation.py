"""Finds the operation that a file names for its vectors, in the spellings of several tools.

Vectors for projecting, clamping or rotating have another effect if they are added, so a key that
names an operation is read whatever tool wrote it. There are two kinds of keys:

    operation, op, mode, steering_type, ...    name an operation and nothing else: a word that does
                                               not mean adding is refused
    method, type, algorithm, ...               may also name how a vector was made (`pca`): only
                                               words for another operation are refused

`glp.*` keys have rules of their own (`steersman.vectors.file.glp`), and so has the key `steersman`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from steersman.vectors.errors import VectorInvalid, shown

SERVED: Final = ("add", "project")
"""Operations whose GLP files are imported."""

_OWN_RULES: Final = ("steersman", "glp.", "dspark.")
_DEPTH: Final = 6
"""Objects within each other that are looked into."""
_OPERATION_KEY: Final = re.compile(
    r"(?:[a-z0-9]+_)*(?:op|operation|operations|operator|intervention)"
    r"|(?:(?:steer|steering|intervention|edit|editing|apply|application|control|hook|inject"
    r"|injection|vector|glp|[a-z]+vector)_)?mode"
    r"|(?:steer|steering|intervention|edit|editing|apply|application|inject|injection)"
    r"_(?:type|kind|style|as|by)"
    r"|intervention_(?:method|name|class)|applied_as|applied_by"
)
_MAKING_KEY: Final = re.compile(
    r"(?:[a-z0-9]+_)*(?:methods?|type|kind|algorithm|algo|technique|transform|transformation"
    r"|function|fn|action|application|effect|usage|use|style|strategy|variant|purpose|apply)"
)
_ADDING: Final = frozenset(
    (
        *("add", "adds", "added", "adding", "additive", "addition", "additions", "+", "+=", "plus"),
        *("sum", "caa", "actadd", "vector", "vectoradd", "vectoraddition", "residualadd"),
        *("activationaddition", "contrastiveactivationaddition", "additionoperator"),
        *("additionintervention", "additiveintervention", "additivesteering", "addvector"),
        *("steer", "steering", "steeringvector", "controlvector", "inject", "injection"),
    )
)
"""Words for adding, without what is between their letters."""
_OTHER: Final = re.compile(
    r"(?:proj$|project|ablat|ablit|clamp|clip|rotat|angular|slerp|householder|replac|overwrit"
    r"|substitut|transport|orthogonal|eras|leace|nullspac|nullif|reflect|patch|multipl|subtract"
    r"|remov|swap|interchang|reft|loreft|lesion|knockout)"
)
"""How words for other operations begin."""
_FILL: Final = frozenset(
    (
        *("directional", "activation", "feature", "features", "vector", "vectors", "steering"),
        *("steer", "direction", "out", "away", "null", "space", "subspace", "intervention"),
        *("and", "then", "addition", "add", "concept", "mean", "zero", "resample", "sae", "linear"),
        *("operator", "operation", "mode", "method", "component", "to", "by", "the", "weight"),
    )
)
"""Words without a meaning of their own beside one of `_OTHER`."""
DESCRIBES: Final = re.compile(
    r"(?:generator|contrast|base|validation|source|dataset|author|creator|tool)(?:[_.].+)?"
    r"|method(?:[_.].+)?|created(?:_at|_by)?|derived_at|date|version|name|title|description|notes?"
    r"|comments?|tags?|licen[cs]e|url|repo(?:_url)?|doi|paper|citation|concept|label|language|seed"
    r"|model(?:_.+)?|n_(?:embd|layers|prompts|pairs|samples)|hidden_size|num_layers|quality|metrics"
    r"|architecture"
)
"""Keys, in small letters, of where a vector is from and not of what it does."""
_PLACES: Final = frozenset(("mlp", "ffn", "attn", "attention", "hook", "pre", "mid", "embed"))


def refuse_unserved(operation: str, param: str = "glp.mode") -> None:
    """Raise `VectorInvalid` if files for this operation are not imported."""
    if operation not in SERVED:
        raise VectorInvalid(
            f"this file is for the operation `{operation}`, and the operation `{operation}` is not "
            "imported yet; added, it would do something else. Write the vector for an operation of "
            "this server (docs/operations.md) instead",
            param=param,
            code="operation_not_served",
        )


def check_operations(said: Mapping[Any, Any], within: str = "") -> None:
    """Raise `VectorInvalid`, whose `param` is the key, if `said` names an operation other than
    adding.

    `said` is what a file has beside its tensors. Objects in it, and JSON in its texts, are searched
    as well. `within` is the key that `said` itself is under.
    """
    _check(said, within, _DEPTH)


def names_making(key: str) -> bool:
    """Whether `key`, in lower case, may name how a vector was made."""
    return _MAKING_KEY.fullmatch(key) is not None or _OPERATION_KEY.fullmatch(key) is not None


def refuse_operation_name(name: str) -> None:
    """Raise `VectorInvalid` for a tensor named after an operation, or after a place other than the
    residual stream: it is not a plain vector that only lacks its block."""
    for word in _words(name):
        if _OTHER.match(word) or word in _PLACES:
            raise VectorInvalid(
                f"tensor {shown(name)} has a word in its name ({word}) for something other than a "
                "vector to be added; if it is such a vector, name it `vector`, or by its place, "
                "such as 'resid_post.14' or 'mlp_out.14'",
                param=name[:128],
                code="unknown_layout",
            )


def _check(said: Any, path: str, depth: int) -> None:
    if depth == 0:
        return
    if isinstance(said, list | tuple):
        for part in said:
            if isinstance(part, Mapping):
                _check(part, path, depth - 1)
        return
    for key, value in said.items():
        name = str(key)
        if not path and name.lower().startswith(_OWN_RULES):
            continue
        here = f"{path}.{name}" if path else name
        _check_value(here, value)
        inner = _parsed(value) if isinstance(value, str) else value
        if isinstance(inner, Mapping | list | tuple):
            _check(inner, here, depth - 1)


def _check_value(key: str, value: Any) -> None:
    parts = [_snake(part) for part in re.split(r"[.:/]", key)[-2:]]
    names = {parts[-1], "_".join(parts)}
    plain = any(_OPERATION_KEY.fullmatch(name) for name in names)
    if not plain and not any(_MAKING_KEY.fullmatch(name) for name in names):
        return
    for word in value if isinstance(value, list | tuple) else (value,):
        if word is None or isinstance(word, Mapping):
            continue
        if (plain and not _adds(word)) or _is_other(word):
            raise _refused(key, word)


def _adds(word: Any) -> bool:
    return isinstance(word, str) and re.sub(r"[^a-z0-9+=]", "", word.lower()) in _ADDING


def _is_other(word: Any) -> bool:
    words = _words(word) if isinstance(word, str) else []
    others = [one for one in words if _OTHER.match(one)]
    return bool(others) and all(one in others or one in _FILL for one in words)


def _refused(key: str, word: Any) -> VectorInvalid:
    return VectorInvalid(
        f"the file's key {shown(key)} is {shown(word)}, and the operation `{_short(word)}` is not "
        "imported yet; added, the vector would do something else. If it is to be added, set the "
        "key to add, or leave the key out",
        param=key[:128],
        code="operation_not_served",
    )


def _short(word: Any) -> str:
    return str(word)[:64]


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", _snake(text)) if word]


def _snake(text: str) -> str:
    """`interventionType`, `Intervention-Type` as `intervention_type`."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text[:256])
    return re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_")


def _parsed(text: str) -> Any:
    """The JSON object or list that `text` is; None if it is not one."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
