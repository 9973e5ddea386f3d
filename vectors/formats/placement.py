"""Places a file's tensors: by their names, or by their rows in a stack of all layers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.operation import refuse_operation_name
from steersman.vectors.formats.conventions import FormatRule, of_hidden_states
from steersman.vectors.formats.imported import (
    ImportedFile,
    ImportedTensor,
    Options,
    check_floats,
    imported_tensor,
)
from steersman.vectors.formats.readers.notes import Notes, read_notes, split_notes
from steersman.vectors.hook_names import parse_hook_name
from steersman.vectors.tensors import HookPoint

_OUTPUTS: Final = re.compile(
    r"(?:(?:model\.|transformer\.)?(?:layers?|h|blocks?)[._]?|direction\.)?(0*[0-9]{1,4})", re.ASCII
)
"""Names for a block's output: `14`, `layer_14`, `layers.14`, `model.layers.14`, `direction.14`."""
_COUNTED: Final = re.compile(r"(?:layers?[._]?)?0*[0-9]{1,4}", re.ASCII)
"""Of these, names that are bare numbers, which may count something other than blocks."""
_AUTOENCODER: Final = ("W_dec", "W_enc", "decoder.weight", "encoder.weight")
KNOWN_NAMES: Final = (
    "'resid_post.14', 'blocks.14.hook_resid_post', 'direction.14', 'layer_14' or '14'"
)


def place_of(name: str) -> HookPoint | None:
    """The hook point in a tensor's name, or None."""
    if key := parse_hook_name(name):
        return key
    match = _OUTPUTS.fullmatch(name)
    return HookPoint("resid_post", int(match[1])) if match else None


def named_parts(tensors: Mapping[Any, Any], rule: FormatRule, options: Options) -> ImportedFile:
    """The file of tensors that are named by their places; a lone one may be placed by what lies
    beside it (`steersman.vectors.formats.readers.notes`), or by `options`.

    Values are [hidden], [1, hidden], or, in a lone tensor, [layers, hidden]. Raises
    `VectorInvalid`.
    """
    tensors, said = split_notes(tensors, place_of)
    return placed(tensors, rule, options, read_notes(said))


def placed(
    tensors: Mapping[Any, Any], rule: FormatRule, options: Options, notes: Notes
) -> ImportedFile:
    """`named_parts` of tensors and of the notes beside them."""
    refuse_autoencoder(name for name in _AUTOENCODER if name in tensors)
    places = {name: _place(name) for name in tensors}
    if not tensors or len(tensors) > 10_000:
        raise VectorInvalid(f"there are {len(tensors)} tensors in it", code="no_tensors")
    if None in places.values() and len(tensors) == 1:
        ((name, value),) = tensors.items()
        value = stacked(value, str(name)) if isinstance(value, list | tuple) else value
        if isinstance(value, torch.Tensor):
            refuse_operation_name(str(name))
            return lone_tensor(value, str(name), rule, options, notes)
    parts = []
    for name, place in places.items():
        if place is None:
            raise unknown_name(name)
        site, number = place
        parts.append(imported_tensor(number, str(name), squeezed(tensors[name]), site))
    numbers = {part.number for part in parts}
    if notes.layers is not None and set(notes.layers) != numbers:
        raise VectorInvalid(
            f"the file lists layers {shown(list(notes.layers))} and its tensors are named for "
            f"{shown(sorted(numbers))}; keep one of them",
            param="layers",
            code="unknown_layout",
        )
    found = ImportedFile(rule, tuple(parts), coefficient=_or(notes.coefficient, 1.0))
    if not all(type(name) is int or _COUNTED.fullmatch(name) for name in tensors):
        if notes.site is not None and {part.site for part in parts} != {notes.site}:
            raise _two_sites(notes.site)
        return found
    if notes.site is not None:
        parts = [replace(part, site=notes.site) for part in parts]
        return replace(found, tensors=tuple(parts))
    return _counted(found, numbers, options)


def lone_tensor(
    value: Any, name: str, rule: FormatRule, options: Options, notes: Notes | None = None
) -> ImportedFile:
    """Parts of a tensor without a layer in its name: [hidden] at the given layers, or one row for
    each layer."""
    notes = notes or Notes()
    value = squeezed(value)
    check_floats(name, value)
    if value.dim() > 2:
        raise VectorInvalid(
            f"tensor {shown(name)} has shape {list(value.shape[:8])}; what is read is one vector, "
            "[hidden], and one for each layer, [layers, hidden]: choose one position and save "
            "[layers, hidden], or save one layer, [hidden]",
            param=name[:128],
            code="bad_shape",
        )
    found = _by_rows(value, name, rule, options, notes.layers)
    if notes.site is not None:
        parts = tuple(replace(part, site=notes.site) for part in found.tensors)
        found = replace(found, tensors=parts, counted=False)
    return replace(found, coefficient=_or(notes.coefficient, 1.0))


def _by_rows(
    value: torch.Tensor,
    name: str,
    rule: FormatRule,
    options: Options,
    layers: tuple[int, ...] | None,
) -> ImportedFile:
    if layers is not None:
        if value.dim() == 2 and value.shape[0] != len(layers):
            raise VectorInvalid(
                f"tensor {shown(name)} has {value.shape[0]} rows and the file lists "
                f"{len(layers)} layers, {shown(list(layers))}; it must list one for each row",
                param="layers",
                code="bad_shape",
            )
        parts = (
            _rows(value, name, layers)
            if value.dim() == 2
            else tuple(imported_tensor(n, name, value) for n in layers)
        )
        return _counted(ImportedFile(rule, parts), set(layers), options)
    if value.dim() != 2:
        parts = tuple(imported_tensor(n, name, value) for n in _needed(options, name))
        return _as_numbered(ImportedFile(rule, parts), options)
    rows, numbers = value.shape[0], options.numbers
    found = ImportedFile(rule, _rows(value, name, range(rows)))
    if numbers and len(numbers) == rows and max(numbers) >= rows:
        return _as_numbered(ImportedFile(rule, _rows(value, name, numbers)), options)
    depth = options.num_layers
    if options.layers_are is None and depth is not None and rows not in (depth, depth + 1):
        raise VectorInvalid(
            f"tensor {shown(name)} has {rows} rows and the model has {depth} blocks; set "
            f"layer to the {rows} blocks that the rows are for",
            param="layer",
            code="bad_shape",
        )
    return _counted(found, set(range(rows)), options)


def _as_numbered(found: ImportedFile, options: Options) -> ImportedFile:
    """`found`, whose layers are bare numbers, counted as `options.layers_are` has it."""
    shifted = options.layers_are == "hidden-states"
    return replace(
        found, rule=of_hidden_states(found.rule) if shifted else found.rule, counted=True
    )


def _counted(found: ImportedFile, numbers: set[int], options: Options) -> ImportedFile:
    """`found`, whose layers are bare `numbers`, as they count: one rule for the rows of a stack and
    for the keys of a dictionary.

    The blocks of a model of n are 0 to n-1. A number n counts hidden_states, of which 0 is the
    embeddings, or belongs to another model. A file with all of 1 to n is read as the former, with a
    warning; one with some of them is refused until `layers_are` decides.
    """
    depth, last = options.num_layers, max(numbers)
    found = _as_numbered(found, options)
    if options.layers_are is not None:
        return found
    if depth is None:
        if len(numbers) > 1 and numbers == set(range(last + 1)):
            warning = (
                f"row N of {last + 1} is taken for the output of block N; how many blocks the "
                "model has is not known here"
            )
            return replace(found, warnings=(*found.warnings, warning))
        return found
    if last != depth:
        return found
    if numbers >= set(range(1, depth + 1)):
        warning = (
            f"layers up to {depth} for {depth} blocks are taken for hidden_states: 0 is the "
            "embeddings, N the output of block N-1 (--layers-are changes that)"
        )
        return replace(found, rule=of_hidden_states(found.rule), warnings=(warning,))
    raise VectorInvalid(
        f"the file has layer {depth}, and the model has blocks 0 to {depth - 1}: its numbers may "
        "count hidden_states, where N is the output of block N-1, or blocks of a deeper model. "
        "Choose with --layers-are hidden-states, or --layers-are blocks, which leaves layer "
        f"{depth} out",
        param="layers_are",
        code="ambiguous_layers",
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _two_sites(site: str) -> VectorInvalid:
    return VectorInvalid(
        f"the file names the site {site}, and its tensors are named for another "
        "place; keep one of them",
        param="site",
        code="unknown_layout",
    )


def stacked(values: Sequence[Any], name: str) -> torch.Tensor:
    """A list of [hidden] as [layers, hidden]; raises `VectorInvalid`."""
    rows = [
        imported_tensor(n, f"{name}[{n}]", squeezed(value)).tensor for n, value in enumerate(values)
    ]
    if not rows or len({row.numel() for row in rows}) > 1:
        raise VectorInvalid(
            f"{name} is a list of {len(rows)} tensors of different sizes; a list holds one vector, "
            "[hidden], for each layer",
            param=name[:128],
            code="mixed_hidden_sizes" if rows else "no_tensors",
        )
    return torch.stack(rows)


def squeezed(value: Any) -> Any:
    """[1, hidden] as [hidden]; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.dim() == 2 and value.shape[0] == 1:
        return value[0]
    return value


def refuse_autoencoder(names: Iterable[object]) -> None:
    """Raise `VectorInvalid` for the tensors of a sparse autoencoder, by their names in SAELens,
    GemmaScope and sparsify: its rows are features, not layers."""
    for name in names:
        if name in _AUTOENCODER:
            raise VectorInvalid(
                f"this is a sparse autoencoder, with {shown(name)}, not a vector; choose "
                "features of it (`--features 12,88` of its folder, or of params.npz), or save the "
                "row of W_dec of one feature as a tensor named by its place, such as "
                "'resid_post.14'",
                param=str(name),
                code="unknown_tensor",
            )


def unknown_name(name: object) -> VectorInvalid:
    """The error for a tensor whose name has no place in it."""
    return VectorInvalid(
        f"tensor {shown(name)} has neither site nor layer in its name; name tensors "
        f"{KNOWN_NAMES}, or give layer where there is only one",
        param=str(name)[:128],
        code="unknown_tensor",
    )


def _rows(value: torch.Tensor, name: str, numbers: Sequence[int]) -> tuple[ImportedTensor, ...]:
    if value.shape[0] > 10_000 or value.shape[1] < 1:
        raise VectorInvalid(
            f"tensor {shown(name)} has shape {list(value.shape)}; it must be [layers, hidden]",
            param=name[:128],
            code="bad_shape",
        )
    return tuple(imported_tensor(n, f"{name}[{row}]", value[row]) for row, n in enumerate(numbers))


def _needed(options: Options, name: str) -> tuple[int, ...]:
    if options.numbers is None:
        raise VectorInvalid(
            f"{shown(name)} is one vector, and nothing in the file or its name (vec_layer_N_*.pt, "
            "layer_N.pt, direction.pt with direction_metadata.json) says for which layer; set "
            "layer to the block that it is for",
            param="layer",
            code="no_layer",
        )
    return options.numbers


def _place(name: object) -> HookPoint | None:
    if type(name) is int:
        return HookPoint("resid_post", name) if 0 <= name <= 9999 else None
    return place_of(name) if isinstance(name, str) else None
