"""Export to a GGUF control vector, which llama.cpp, repeng and others add to every token.

What a runtime does with such a file: it adds all of `direction.N` to the outputs of blocks N >= 1,
at strength 1 by default. So only the layers that the vector steers by default are
written; the default coefficient is not folded in, since every runtime takes a strength and the
floats stay the vector's own, byte for byte. The rest of what we know of the vector goes along as
one string, `steersman`, which other readers ignore and our importer takes back.

A vector whose operation is `project` goes into the same container with the keys of GLP, which say
so: readers of GLP project it out, and refuse what they do not know. Runtimes that do not read these
keys would add it.
"""

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from steersman.vectors.defaults import check_layers
from steersman.vectors.errors import LibraryError, PackageMissing, VectorInvalid
from steersman.vectors.file.glp import HOOK_POINTS
from steersman.vectors.file.metadata import METADATA_KEY, metadata_text
from steersman.vectors.library import disk
from steersman.vectors.tensors import HookPoint, parse_tensor_name, tensor_name
from steersman.vectors.vector import SteeringVector

_ADDED: Final = frozenset(("resid_post", "resid_pre"))
_PROJECTED: Final = _ADDED | set(HOOK_POINTS.values())


class Exported(NamedTuple):
    """What was written: block numbers, and the strength at which it does what the vector does.

    `command` is how to give it to llama.cpp; empty for a projection, which llama.cpp has not.
    """

    path: Path
    layers: tuple[int, ...]
    strength: float
    command: str


def save_gguf(
    vector: SteeringVector,
    path: Path | str,
    *,
    layers: Iterable[int] | None = None,
    fold_coefficient: bool = False,
    model_hint: str | None = None,
) -> Exported:
    """Write `vector` to `path` as a control vector, in one step, over whatever was there.

    `layers` are the vector's own default ones unless given. `fold_coefficient` multiplies the
    floats by the default coefficient, for runtimes without a strength. `model_hint` is what repeng
    compares before it adds two vectors (a model type, such as `llama`). Raises `VectorInvalid` for
    what a control vector cannot hold, `LibraryError` if the disk refuses.
    """
    target = Path(path)
    exported = expressible(vector, vector.layers if layers is None else layers)
    if fold_coefficient and not exported.operation.adds:
        raise VectorInvalid(
            "only the direction counts of what is projected out, so its coefficient cannot be in "
            "its length; leave the option out",
            param="fold_coefficient",
            code="operation_not_expressible",
        )
    if fold_coefficient:
        scaled = {key: t * exported.coefficient for key, t in exported.tensors.items()}
        exported = replace(exported, tensors=scaled, coefficient=1.0, safe_range=None, norms={})
    try:
        disk.replace(target, _encode(exported, model_hint or _model_hint(vector)))
    except OSError as error:
        raise LibraryError(f"cannot write {target.name!r}: {error.strerror}") from error
    strength = exported.coefficient
    if not exported.operation.adds:
        return Exported(target, exported.layers, strength, "")
    flag = "--control-vector" if strength == 1.0 else "--control-vector-scaled"
    value = str(target) if strength == 1.0 else f"{target}:{strength:g}"
    return Exported(target, exported.layers, strength, f"{flag} {value}")


def expressible(vector: SteeringVector, layers: Iterable[int]) -> SteeringVector:
    """The vector as a control vector can hold it: `resid_post` of blocks from 1, one vector each;
    to be projected out, also `attn_out` or `mlp_out`, and several directions each.

    `resid_pre.N` becomes `resid_post.N-1`, which is the same stream. Raises `VectorInvalid`.
    """
    projects = vector.operation.name == "project"
    if not (projects or vector.operation.adds):
        raise VectorInvalid(
            f"the vector's operation is `{vector.operation.name}`, and all readers of control "
            "vectors add them or project them out; export it as safetensors (`steersman vectors "
            "export --format safetensors`)",
            param="operation",
            code="operation_not_expressible",
        )
    chosen = check_layers(layers, {layer for _, layer in vector.tensors})
    tensors = {key: t for key, t in vector.tensors.items() if key[1] in chosen}
    for key, tensor in tensors.items():
        if tensor.dim() != 1 and not projects:
            raise VectorInvalid(
                f"tensor {tensor_name(key)!r} has a vector for each of {tensor.shape[0]} generated "
                "tokens, and a control vector has one for all; export one step, or their mean, as "
                "a vector of its own",
                param=tensor_name(key),
                code="bad_shape",
            )
    ranks = {tensor.numel() // tensor.shape[-1] for tensor in tensors.values()}
    if len(ranks) > 1:
        raise VectorInvalid(
            f"layers have {', '.join(map(str, sorted(ranks)))} directions, and a file has as many "
            "for each; export those that have the same number with layers=",
            param="layers",
            code="bad_shape",
        )
    sites = {site for site, _ in tensors}
    allowed = _PROJECTED if projects else _ADDED
    if len(sites) != 1 or not sites <= allowed:
        raise VectorInvalid(
            f"a control vector has one site, {' or '.join(sorted(allowed))}, and this one has "
            f"{', '.join(sorted(sites))}; export a vector with the tensors of one of them alone",
            param="site",
            code="site_not_in_format",
        )
    shift = -1 if sites == {"resid_pre"} else 0
    (site,) = {"resid_post" if site == "resid_pre" else site for site in sites}
    moved = {HookPoint(site, layer + shift): t for (_, layer), t in tensors.items()}
    if min(layer for _, layer in moved) < 1:
        raise VectorInvalid(
            f"layer {-shift} cannot be written: llama.cpp counts control vectors from block 1 and "
            f"refuses a file with direction.0; export the others with layers=, "
            f"here {[layer for layer in chosen if layer + shift > 0]}",
            param="layers",
            code="layer_out_of_range",
        )
    return replace(
        vector,
        tensors=moved,
        layers=tuple(layer for _, layer in moved),
        norms=_moved_norms(vector, tensors, site, shift),
    )


def _moved_norms(
    vector: SteeringVector, tensors: dict[HookPoint, torch.Tensor], site: str, shift: int
) -> dict[str, float]:
    norms = {parse_tensor_name(name): norm for name, norm in vector.norms.items()}
    return {tensor_name((site, key[1] + shift)): norms[key] for key in tensors if key in norms}


def _encode(vector: SteeringVector, model_hint: str) -> bytes:
    writer_class = gguf_package().GGUFWriter
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "vector.gguf"
        writer = writer_class(file, "controlvector")
        writer.add_string("controlvector.model_hint", model_hint)
        writer.add_uint32("controlvector.layer_count", len(vector.tensors))
        writer.add_string(METADATA_KEY, metadata_text(vector))
        directions = _directions(vector)
        if not vector.operation.adds:
            _add_glp(writer, vector, directions)
        for name, tensor in directions.items():
            writer.add_tensor(name, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()


def _directions(vector: SteeringVector) -> dict[str, torch.Tensor]:
    """The tensors by their names in the file: of a basis, `direction.N`, `direction.N.1`, ..."""
    return {
        f"direction.{layer}" + (f".{n}" if n else ""): row
        for (_, layer), tensor in vector.tensors.items()
        for n, row in enumerate(tensor.reshape(-1, tensor.shape[-1]).contiguous())
    }


def _add_glp(writer: Any, vector: SteeringVector, directions: dict[str, torch.Tensor]) -> None:
    (site,) = {site for site, _ in vector.tensors}
    (rank,) = {tensor.reshape(-1, tensor.shape[-1]).shape[0] for tensor in vector.tensors.values()}
    digest = hashlib.sha256(b"".join(row.numpy().tobytes() for row in directions.values()))
    writer.add_string("glp.mode", vector.operation.name)
    writer.add_uint32("glp.spec_version", 2 if rank > 1 else 1)
    writer.add_string("glp.hook_point", next(k for k, v in HOOK_POINTS.items() if v == site))
    writer.add_float32("glp.alpha_default", vector.coefficient)
    writer.add_string("glp.content_sha256", digest.hexdigest())
    if rank > 1:
        writer.add_uint32("glp.rank", rank)
        writer.add_bool("glp.orthonormal", True)


def _model_hint(vector: SteeringVector) -> str:
    imported = vector.method_settings.get("imported")
    if isinstance(imported, dict) and isinstance(imported.get("model_hint"), str):
        return str(imported["model_hint"])
    return (vector.base_model.id if vector.base_model else None) or "unknown"


def gguf_package() -> Any:
    """The module `gguf`. Raises `PackageMissing` with the command that installs it."""
    try:
        import gguf
    except ImportError as error:
        raise PackageMissing(
            "reading and writing GGUF files needs the package gguf, which is not installed here: "
            "run `pip install gguf`",
            param="gguf",
        ) from error
    return gguf
