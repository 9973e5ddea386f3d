"""safetensors: our own files, and others whose tensors say where they belong.

Names understood: `<site>.N` in any float type, TransformerLens' `blocks.N.hook_<site>`, and
`direction.N`, which is a block's output as in GGUF. A single tensor of another name needs a layer.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from vectors.errors import VectorInvalid, shown
from vectors.exchange.found import Found, layer_number, part
from vectors.exchange.rules import TENSORS
from vectors.format import read_vector
from vectors.metadata import METADATA_KEY
from vectors.tensors import SITES
from vectors.vector import SteeringVector

_SITES: Final = "|".join(SITES)
_NAMES: Final = (
    re.compile(rf"(?P<site>{_SITES})\.(?P<layer>[0-9]+)", re.ASCII),
    re.compile(rf"blocks\.(?P<layer>[0-9]+)\.hook_(?P<site>{_SITES})", re.ASCII),
    re.compile(r"(?P<site>direction)\.(?P<layer>[0-9]+)", re.ASCII),
)


def read_safetensors(path: Path, numbers: Sequence[int] | None = None) -> Found | SteeringVector:
    """Read a safetensors file; one in our own format comes back as it is.

    `numbers` places the only tensor of a file whose name says nothing. Raises `VectorInvalid`.
    """
    tensors, metadata = _tensors(path)
    ours = all(_NAMES[0].fullmatch(name) for name in tensors)
    if METADATA_KEY in metadata or (
        ours and {t.dtype for t in tensors.values()} == {torch.float32}
    ):
        return read_vector(path, max_header_bytes=8 << 20)
    matches = {name: _match(name) for name in tensors}
    if len(tensors) == 1 and None in matches.values() and numbers is not None:
        (name, tensor), *_ = tensors.items()
        return Found(TENSORS, tuple(part(number, name, tensor) for number in numbers))
    parts, sites = [], {}
    for name, match in matches.items():
        if match is None:
            raise VectorInvalid(
                f"tensor {shown(name)} says neither site nor layer; name tensors 'resid_post.14', "
                "'blocks.14.hook_resid_post' or 'direction.14', or give layer where there is only "
                "one",
                param=name[:128],
                code="unknown_tensor",
            )
        parts.append(part(layer_number(name, match["layer"]), name, tensors[name]))
        sites[name] = "resid_post" if match["site"] == "direction" else match["site"]
    if set(sites.values()) == {"resid_post"}:
        return Found(TENSORS, tuple(parts))
    keyed = {(sites[p.name], p.number): p.tensor for p in parts}
    if len(keyed) < len(parts):
        raise VectorInvalid("two tensors are for one site and layer", param="file")
    settings = {
        "format": "safetensors",
        "file": path.name,
        "dtype": sorted({p.dtype for p in parts}),
    }
    return SteeringVector(keyed, method="imported", method_settings={"imported": settings})


def _match(name: str) -> re.Match[str] | None:
    return next((m for pattern in _NAMES if (m := pattern.fullmatch(name))), None)


def _tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if not names or len(names) > 10_000:
                raise VectorInvalid(f"there are {len(names)} tensors in it", code="no_tensors")
            # Cloned, because the tensor would be a window on the mapped file.
            wanted = names if any(_match(n) for n in names) or len(names) == 1 else names[:1]
            tensors = {n: file.get_tensor(n).clone() for n in wanted}
            return tensors, file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise VectorInvalid(
            f"this is no whole safetensors file ({shown(str(error))}); it may be cut off: fetch "
            "it again",
            param="file",
            code="not_safetensors",
        ) from error
