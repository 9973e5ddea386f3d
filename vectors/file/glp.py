"""GLP, weightless' metadata on control vectors: what a file's directions do, where, how strongly.

Keys `glp.*` of a GGUF (typed) or a safetensors file (strings). The rules are those of the project's
`spec/GLP.md` for readers: what changes the effect of a file is understood or fatal, never ignored.

    glp.mode            "add" (also if absent) or "project"
    glp.spec_version    1 (also if absent) or 2; rank > 1 and both scales need 2
    glp.hook_point      where it acts, see `HOOK_POINTS`; derived_at, where it was measured
    glp.alpha_default   default coefficient
    glp.rank            directions a layer: `direction.N`, `direction.N.1`, ..., orthonormal
    glp.dir_scales      "1.0,0.5": times the coefficient, a direction
    glp.layer_scales    "12:0.5,13:2": times the coefficient, a layer
    glp.content_sha256  over the tensors' bytes, by layer, then by direction
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.operation import DESCRIBES, check_operations

PREFIX: Final = "glp."
_BEFORE_GLP: Final = "dspark."
OPERATIONS: Final = ("add", "project")
HOOK_POINTS: Final = {
    "residual_stream_post_layer": "resid_post",
    "ffn_out_pre_residual": "mlp_out",
    "attn_out_pre_residual": "attn_out",
}
_VERSIONS: Final = (1, 2)
_MAX_RANK: Final = 64
_KEPT: Final = (
    "generator", "method", "contrast", "created", "base_revision", "derived_at", "validation"
)  # fmt: skip
_READ: Final = frozenset(
    (
        *("mode", "spec_version", "hook_point", "structure", "alpha_default", "rank"),
        *("orthonormal", "dir_scales", "layer_scales", "layer_ids_zero_based", "content_sha256"),
    )
)


@dataclass(frozen=True)
class Glp:
    """The `glp.*` keys of a file, checked. `site` is one of ours; `layer_scales` is by block number
    from 1.

    `dir_scales` has `rank` numbers. `provenance` is kept in the metadata as it is; `warnings`
    are for the user who imports the file.
    """

    operation: str = "add"
    site: str = "resid_post"
    coefficient: float = 1.0
    rank: int = 1
    orthonormal: bool = False
    dir_scales: tuple[float, ...] = (1.0,)
    layer_scales: Mapping[int, float] | None = None
    layers: tuple[int, ...] | None = None
    content_sha256: str | None = None
    measured_there: bool = False
    provenance: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    def scale(self, layer: int, direction: int) -> float:
        """The number that multiplies the coefficient for one direction."""
        return self.dir_scales[direction] * (self.layer_scales or {}).get(layer, 1.0)


def read_glp(metadata: Mapping[str, Any]) -> Glp | None:
    """Read the `glp.*` keys in `metadata`; None if there are none.

    Capitals make no difference. Raises `VectorInvalid`, whose `param` is the key, for everything
    that is unknown or contradictory.
    """
    _refuse_before_glp(metadata)
    keys = _keys(metadata)
    if not keys:
        return None
    operation = keys.get("glp.mode", "add")
    if operation not in OPERATIONS:
        raise _bad("glp.mode", operation, f"is not a known operation ({', '.join(OPERATIONS)})")
    version = _integer(keys, "glp.spec_version", 1)
    if version not in _VERSIONS:
        raise _bad("glp.spec_version", version, "is not known here; versions 1 and 2 are read")
    hook = keys.get("glp.hook_point", "residual_stream_post_layer")
    if not isinstance(hook, str) or hook not in HOOK_POINTS:
        raise _bad("glp.hook_point", hook, f"is not a known place ({', '.join(HOOK_POINTS)})")
    if str(keys.get("glp.structure", "")).strip() == "per-execution-step":
        raise _bad(
            "glp.structure",
            "per-execution-step",
            "counts the passes of a looped model, not its layers, and cannot be placed",
        )
    rank = _integer(keys, "glp.rank", 1)
    if not 1 <= rank <= _MAX_RANK:
        raise _bad("glp.rank", rank, f"must be from 1 to {_MAX_RANK}")
    for key in ("glp.dir_scales", "glp.layer_scales", "glp.rank"):
        if version == 1 and key in keys and (key != "glp.rank" or rank > 1):
            raise _bad(key, keys[key], "needs glp.spec_version 2, and this file has 1")
    orthonormal = _boolean(keys, "glp.orthonormal")
    if rank > 1 and not orthonormal:
        raise _bad(
            "glp.orthonormal",
            keys.get("glp.orthonormal"),
            f"must be true for {rank} directions a layer: strengths of directions that are not "
            "orthonormal depend on their order",
        )
    return Glp(
        operation=str(operation),
        site=HOOK_POINTS[hook],
        coefficient=_number(keys, "glp.alpha_default", keys.get("glp.alpha_default", 1.0)),
        rank=rank,
        orthonormal=orthonormal,
        dir_scales=_dir_scales(keys, rank),
        layer_scales=_layer_scales(keys),
        layers=_layers(keys),
        content_sha256=_digest(keys),
        measured_there=keys.get("glp.derived_at") == hook,
        provenance={
            key: str(keys[PREFIX + key])[:256] for key in _KEPT if keys.get(PREFIX + key)
        } | {"mode": operation, "spec_version": version, "hook_point": hook},
        warnings=_warnings(keys, hook),
    )  # fmt: skip


def refuse_hidden_meaning(
    metadata: Mapping[str, str], sites: set[str], operation: str = "add"
) -> None:
    """Raise `VectorInvalid` if `glp.*` keys ask for more than `operation` with the tensors where
    they are.

    For files whose tensors are named as ours, at `sites`, and whose own metadata has the
    `operation`: the keys must describe what such a file does anyway. Other tools' keys that name an
    operation are read as well.
    """
    check_operations(metadata)
    glp = read_glp(metadata)
    metadata = {key.lower(): value for key, value in metadata.items()}
    if glp is None:
        return
    for key, plain in (
        ("glp.mode", glp.operation == operation),
        ("glp.hook_point", sites == {glp.site} or "glp.hook_point" not in metadata),
        ("glp.alpha_default", glp.coefficient == 1.0),
        ("glp.rank", glp.rank == 1),
        ("glp.dir_scales", "glp.dir_scales" not in metadata),
        ("glp.layer_scales", "glp.layer_scales" not in metadata),
    ):
        if not plain:
            raise VectorInvalid(
                f"the file's key {key} is {shown(metadata.get(key, 'add'))}, which its tensors' "
                "names and its metadata do not have; name the tensors direction.N and import the "
                "file with `steersman vectors import`, or leave the glp.* keys out",
                param=key,
                code="bad_glp",
            )


def _keys(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are GLP's, in small letters."""
    keys: dict[str, Any] = {}
    for written, value in metadata.items():
        key = written.lower()
        if not key.startswith(PREFIX):
            continue
        if key in keys:
            raise VectorInvalid(
                f"the key {key} is there twice, in different capitals; keep one of them",
                param=written[:128],
                code="bad_glp",
            )
        word = key.removeprefix(PREFIX)
        if word not in _READ and not DESCRIBES.fullmatch(word):
            raise VectorInvalid(
                f"the key {shown(key)} is not known here and may change what the file does, so the "
                "file is refused; leave the key out if it only describes the file",
                param=written[:128],
                code="bad_glp",
            )
        keys[key] = value
    return keys


def _refuse_before_glp(metadata: Mapping[str, Any]) -> None:
    for key in metadata:
        if key.lower().startswith(_BEFORE_GLP):
            raise VectorInvalid(
                f"the key {shown(key)} is from before GLP and has no fixed meaning; "
                "export the vector again with a current weightless, which writes glp.* keys",
                param=key[:128],
                code="bad_glp",
            )


def _warnings(keys: Mapping[str, Any], hook: str) -> tuple[str, ...]:
    derived = keys.get("glp.derived_at")
    if derived is None or derived == hook:
        return ()
    return (
        f"glp.derived_at is {shown(derived)} and glp.hook_point is {shown(hook)}: it was measured "
        "at another place than where it acts, so its strength may not be right there",
    )


def _dir_scales(keys: Mapping[str, Any], rank: int) -> tuple[float, ...]:
    key = "glp.dir_scales"
    if key not in keys:
        return (1.0,) * rank
    scales = tuple(_number(keys, key, item) for item in _items(keys, key))
    if len(scales) != rank:
        raise _bad(key, keys[key], f"has {len(scales)} numbers for {rank} directions a layer")
    return scales


def _layer_scales(keys: Mapping[str, Any]) -> dict[int, float] | None:
    key = "glp.layer_scales"
    if key not in keys:
        return None
    scales: dict[int, float] = {}
    for item in _items(keys, key):
        layer, colon, number = item.partition(":")
        number_of = _block(layer)
        if not colon or number_of is None or number_of in scales:
            raise _bad(
                key, keys[key], 'must be pairs of block and number, each once: "12:0.5,13:2"'
            )
        scales[number_of] = _number(keys, key, number)
    return scales


def _layers(keys: Mapping[str, Any]) -> tuple[int, ...] | None:
    key = "glp.layer_ids_zero_based"
    if key not in keys:
        return None
    numbers = [_block(item) for item in _items(keys, key)]
    found = [number for number in numbers if number is not None]
    if len(found) != len(numbers):
        raise _bad(key, keys[key], 'must be a list of blocks: "10,11,12"')
    return tuple(sorted(found))


def _digest(keys: Mapping[str, Any]) -> str | None:
    key = "glp.content_sha256"
    if key not in keys:
        return None
    text = str(keys[key]).strip().lower().removeprefix("sha256:")
    if len(text) != 64 or any(c not in "0123456789abcdef" for c in text):
        raise _bad(key, keys[key], "must be 64 hex digits")
    return text


def _items(keys: Mapping[str, Any], key: str) -> list[str]:
    value = keys[key]
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    return [item.strip() for item in str(value).split(",")]


def _block(text: str) -> int | None:
    plain = text.strip()
    return int(plain) if plain.isascii() and plain.isdigit() and len(plain) <= 4 else None


def _integer(keys: Mapping[str, Any], key: str, default: int) -> int:
    value = keys.get(key, default)
    if type(value) is int:
        return value
    number = _block(value) if isinstance(value, str) else None
    if number is None:
        raise _bad(key, value, "must be a whole number")
    return number


def _number(keys: Mapping[str, Any], key: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or abs(number) > 3.4e38:
        raise _bad(key, keys.get(key), "must be made of finite numbers")
    return number


def _boolean(keys: Mapping[str, Any], key: str) -> bool:
    value = keys.get(key, False)
    text = str(value).strip().lower()
    if text not in ("true", "1", "false", "0"):
        raise _bad(key, value, "must be true or false")
    return text in ("true", "1")


def _bad(key: str, value: object, reason: str) -> VectorInvalid:
    said = "is missing and" if value is None else f"is {shown(value)}, which"
    return VectorInvalid(f"the key {key} {said} {reason}", param=key, code="bad_glp")
