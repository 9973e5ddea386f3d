"""Where a file's tensors belong: by their names, or by their rows in a stack of all layers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from vectors.errors import VectorInvalid, shown
from vectors.exchange.found import Found, Options, Part, check_floats, part
from vectors.exchange.rules import Rule, of_hidden_states
from vectors.hook_names import parse_hook_name
from vectors.operation import refuse_telling_name

_OUTPUTS: Final = re.compile(
    r"(?:(?:model\.|transformer\.)?(?:layers?|h|blocks?)[._]?|direction\.)?(0*[0-9]{1,4})", re.ASCII
)
"""Names for a block's output: `14`, `layer_14`, `layers.14`, `model.layers.14`, `direction.14`."""
KNOWN_NAMES: Final = (
    "'resid_post.14', 'blocks.14.hook_resid_post', 'direction.14', 'layer_14' or '14'"
)


def place_of(name: str) -> tuple[str, int] | None:
    """The (site, layer) that a tensor's name says, or None."""
    if key := parse_hook_name(name):
        return key
    match = _OUTPUTS.fullmatch(name)
    return ("resid_post", int(match[1])) if match else None


def named_parts(tensors: Mapping[Any, Any], rule: Rule, options: Options) -> Found:
    """Parts of tensors whose names say where they belong; a lone one may be placed by `options`.

    Values are [hidden], [1, hidden], or, in a lone tensor, [layers, hidden]. Raises
    `VectorInvalid`.
    """
    places = {name: _place(name) for name in tensors}
    if not tensors or len(tensors) > 10_000:
        raise VectorInvalid(f"there are {len(tensors)} tensors in it", code="no_tensors")
    if None in places.values() and len(tensors) == 1:
        ((name, value),) = tensors.items()
        if isinstance(value, torch.Tensor):
            refuse_telling_name(str(name))
            return lone_tensor(value, str(name), rule, options)
    parts = []
    for name, place in places.items():
        if place is None:
            raise unknown_name(name)
        site, number = place
        parts.append(part(number, str(name), squeezed(tensors[name]), site))
    return Found(rule, tuple(parts))


def lone_tensor(value: Any, name: str, rule: Rule, options: Options) -> Found:
    """Parts of a tensor without a layer: [hidden] at the layers given, or a row for each layer."""
    value = squeezed(value)
    check_floats(name, value)
    if value.dim() != 2:
        return Found(rule, tuple(part(n, name, value) for n in _needed(options, name)))
    rows, numbers = value.shape[0], options.numbers
    found = Found(rule, _rows(value, name, range(rows)))
    if numbers and len(numbers) == rows and max(numbers) >= rows:
        return Found(rule, _rows(value, name, numbers))
    if options.num_layers is None:
        return Found(
            rule,
            found.parts,
            warnings=(
                f"row N of {rows} is taken for the output of block N; how many blocks the model "
                "has is not known here",
            ),
        )
    if rows == options.num_layers:
        return found
    if rows == options.num_layers + 1:
        return Found(
            of_hidden_states(rule),
            found.parts,
            warnings=(
                f"{rows} rows for {options.num_layers} blocks are taken for hidden_states: row 0 "
                "is the embeddings, row N the output of block N-1",
            ),
        )
    raise VectorInvalid(
        f"tensor {shown(name)} has {rows} rows and the model has {options.num_layers} blocks; give "
        f"the {rows} blocks that the rows are for with layer",
        param="layer",
        code="bad_shape",
    )


def squeezed(value: Any) -> Any:
    """[1, hidden] as [hidden]; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.dim() == 2 and value.shape[0] == 1:
        return value[0]
    return value


def unknown_name(name: object) -> VectorInvalid:
    """What is wrong with a tensor whose name says nothing."""
    return VectorInvalid(
        f"tensor {shown(name)} says neither site nor layer; name tensors {KNOWN_NAMES}, or give "
        "layer where there is only one",
        param=str(name)[:128],
        code="unknown_tensor",
    )


def _rows(value: torch.Tensor, name: str, numbers: Sequence[int]) -> tuple[Part, ...]:
    if value.shape[0] > 10_000 or value.shape[1] < 1:
        raise VectorInvalid(
            f"tensor {shown(name)} has shape {list(value.shape)}; it must be [layers, hidden]",
            param=name[:128],
            code="bad_shape",
        )
    return tuple(part(n, f"{name}[{row}]", value[row]) for row, n in enumerate(numbers))


def _needed(options: Options, name: str) -> tuple[int, ...]:
    if options.numbers is None:
        raise VectorInvalid(
            f"{shown(name)} is one vector, and nothing in the file or its name (vec_layer_N_*.pt, "
            "layer_N.pt, direction.pt with direction_metadata.json) says for which layer; give the "
            "block that it is for with layer",
            param="layer",
            code="no_layer",
        )
    return options.numbers


def _place(name: object) -> tuple[str, int] | None:
    if type(name) is int:
        return ("resid_post", name) if 0 <= name <= 9999 else None
    return place_of(name) if isinstance(name, str) else None
