"""Features of a sparse autoencoder (SAE), as a vector for the operation `feature`.

Only the rows of the chosen features are read: an SAE has tens of thousands, a bank of vectors a few
thousand rows. Two layouts are known:

    SAELens      a folder with cfg.json and sae_weights.safetensors; its hook is the place
    GemmaScope   params.npz, JumpReLU; nothing in it names its place

An activation is f_j(h) = act(e_j.h + b_j), e_j column j of W_enc. Where the SAE takes its decoder's
bias from the stream first (`apply_b_dec_to_input`), e_j.(h - b_dec) + b_j is e_j.h + (b_j -
e_j.b_dec), so that goes into the bias.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.hook_names import parse_hook_name, steered_place
from steersman.vectors.methods.sae import Features
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint, tensor_name
from steersman.vectors.vector import SteeringVector

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
MOST_FEATURES: Final = 256
BLOCK: Final = 4096
"""Features of an SAE that are in memory at a time, where all are looked at."""
_ARCHITECTURES: Final = ("standard", "jumprelu")
_UNSCALED: Final = (None, "none", False)


class _Read(NamedTuple):
    """The rows of the chosen features, float32."""

    encoder: Tensor
    """[k, hidden]."""
    decoder: Tensor
    bias: Tensor
    """[k]."""
    threshold: Tensor


def load_features(
    path: Path | str,
    features: Sequence[int],
    *,
    layer: int | None = None,
    site: str | None = None,
    name: str | None = None,
) -> SteeringVector:
    """The chosen features of the SAE in `path`, a SAELens folder or a GemmaScope `params.npz`.

    `layer` and `site` place an SAE that does not name its place (`site` is `resid_post` if left
    out); those of one that does must agree with it. A request says what becomes of the features,
    with `value` or `multiply`. Raises `VectorInvalid`, whose `param` is the key, tensor or option,
    and `OSError`.

    >>> found = load_features("sae/", [1207, 88], name="bridges")  # doctest: +SKIP
    """
    path = Path(path)
    chosen = _checked(features)
    place, about = _where(path, layer, site)
    if about is not None:
        read, library = _saelens(path / WEIGHTS, chosen, about), "SAELens"
    else:
        read, library = _gemma_scope(path, chosen), "GemmaScope"
    point = HookPoint(*steered_place(place, path.name))
    # JumpReLU is a ReLU as well: an activation below 0 is none, whatever the threshold.
    numbers = torch.stack([read.bias, read.threshold.clamp(min=0.0)])
    return SteeringVector(
        {point: torch.cat([read.encoder, read.decoder])},
        name=name,
        method="imported",
        method_settings={
            "imported": {
                "format": "sae",
                "library": library,
                "file": path.name,
                "applied_at": f"{place.site} of block N",
                "layer_shift": point.layer - place.layer,
                "tensors": {tensor_name(point): f"features {', '.join(map(str, chosen))}"},
                "features": chosen,
            }
        },
        operation=Operation("feature"),
        numbers={point: numbers},
    )


def feature_blocks(
    path: Path | str, *, layer: int | None = None, site: str | None = None, size: int = BLOCK
) -> tuple[HookPoint, Iterator[Features]]:
    """The place of the SAE in `path` in this server's terms, and all its features, of SAELens
    `size` at a time, for `steersman.vectors.methods.sae`. Arguments and errors as `load_features`;
    errors of the weights come with the first block."""
    path = Path(path)
    place, about = _where(path, layer, site)
    return HookPoint(*steered_place(place, path.name)), _blocks(path, about, size)


def _blocks(path: Path, about: Mapping[str, Any] | None, size: int) -> Iterator[Features]:
    count = _count(path, about)
    if about is None:
        # Of a zip, each array is read whole: once is enough.
        size = count
    for first in range(0, count, size):
        chosen = list(range(first, min(first + size, count)))
        if about is not None:
            read = _saelens(path / WEIGHTS, chosen, about)
        else:
            read = _gemma_scope(path, chosen)
        yield Features(first, read.encoder, read.bias, read.threshold.clamp(min=0.0))


def _count(path: Path, about: Mapping[str, Any] | None) -> int:
    """The number of features."""
    try:
        if about is not None:
            with safe_open(path / WEIGHTS, framework="pt") as file:
                return int(file.get_slice("W_enc").get_shape()[-1])
        with np.load(path, allow_pickle=False) as arrays:
            return int(arrays["b_enc"].shape[0])
    except SafetensorError as error:
        raise VectorInvalid(f"{WEIGHTS} is not whole: {error}", param=WEIGHTS) from None
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError, IndexError) as error:
        raise VectorInvalid(f"{path.name} is not whole: {error}", param="file") from None


def _where(
    path: Path, layer: int | None, site: str | None
) -> tuple[HookPoint, dict[str, Any] | None]:
    """The SAE's place as it names it, and the settings of one of SAELens."""
    config = path / CONFIG
    if path.is_dir() and config.is_file():
        about = _config(config)
        return _place(about, layer, site), about
    if path.suffix != ".npz":
        raise VectorInvalid(
            f"features are read from a SAELens folder, with {CONFIG} and {WEIGHTS}, or from "
            "GemmaScope's params.npz",
            param="features",
            code="unknown_format",
        )
    if layer is None:
        raise VectorInvalid("the file does not say which layer it is of; give layer", param="layer")
    return HookPoint(site or "resid_post", layer), None


def _checked(features: Sequence[int]) -> list[int]:
    chosen = list(features)
    if not 1 <= len(chosen) <= MOST_FEATURES or len(set(chosen)) != len(chosen):
        raise VectorInvalid(
            f"features are 1 to {MOST_FEATURES} different numbers, from 0", param="features"
        )
    return chosen


def _config(path: Path) -> dict[str, Any]:
    """The settings of a SAELens SAE, of which each that changes an activation is known."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VectorInvalid(f"{CONFIG} is not JSON: {error}", param=CONFIG) from None
    if not isinstance(read, dict):
        raise VectorInvalid(f"{CONFIG} is not an object", param=CONFIG)
    about: dict[str, Any] = {**read.get("metadata", {}), **read}
    kind = about.get("architecture", "standard")
    if kind not in _ARCHITECTURES:
        raise _unknown("architecture", kind, f"is not one of {', '.join(_ARCHITECTURES)}")
    function = about.get("activation_fn", about.get("activation_fn_str", "relu"))
    if kind == "standard" and function != "relu":
        raise _unknown("activation_fn", function, "is not relu")
    for key in ("normalize_activations", "finetuning_scaling_factor"):
        if about.get(key) not in _UNSCALED:
            raise _unknown(key, about[key], "scales activations, which is not read here")
    if about.get("rescale_acts_by_decoder_norm"):
        raise _unknown("rescale_acts_by_decoder_norm", True, "scales activations")
    if not isinstance(about.get("apply_b_dec_to_input"), bool):
        raise _unknown("apply_b_dec_to_input", about.get("apply_b_dec_to_input"), "must be there")
    return about


def _place(about: Mapping[str, Any], layer: int | None, site: str | None) -> HookPoint:
    hook = about.get("hook_name")
    place = parse_hook_name(hook) if isinstance(hook, str) else None
    if place is None:
        raise _unknown("hook_name", hook, "is not a place in the stream, such as blocks.14.hook_")
    if (site or place.site, place.layer if layer is None else layer) != place:
        raise VectorInvalid(
            f"this SAE is of {hook}; leave out site and layer",
            param="site" if site not in (None, place.site) else "layer",
        )
    return place


def _saelens(path: Path, chosen: list[int], about: Mapping[str, Any]) -> _Read:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
                if name not in names:
                    raise _no_tensor(name)
            encoder, decoder = file.get_slice("W_enc"), file.get_slice("W_dec")
            _check_shapes(tuple(encoder.get_shape()), tuple(decoder.get_shape()), chosen)
            if chosen == list(range(chosen[0], chosen[-1] + 1)):
                span = slice(chosen[0], chosen[-1] + 1)
                columns, rows = encoder[:, span].T.float(), decoder[span].float()
            else:
                columns = torch.stack([encoder[:, n : n + 1][:, 0] for n in chosen]).float()
                rows = torch.stack([decoder[n : n + 1][0] for n in chosen]).float()
            bias = file.get_tensor("b_enc")[chosen].float()
            if about["apply_b_dec_to_input"]:
                bias = bias - columns @ file.get_tensor("b_dec").float()
            if about.get("architecture") != "jumprelu":
                threshold = torch.zeros(len(chosen))
            elif "threshold" in names:
                threshold = file.get_tensor("threshold")[chosen].float()
            else:
                raise _no_tensor("threshold")
    except SafetensorError as error:
        raise VectorInvalid(f"{WEIGHTS} is not whole: {error}", param=WEIGHTS) from None
    return _Read(columns, rows, bias, threshold)


def _gemma_scope(path: Path, chosen: list[int]) -> _Read:
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in ("W_enc", "W_dec", "b_enc", "threshold"):
                if name not in file.files:
                    raise _no_tensor(name)
            # Of a zip, an array is read whole; one after the other, so that one is held at a time.
            encoder = file["W_enc"]
            shape, columns = encoder.shape, None
            if all(n < shape[-1] for n in chosen):
                columns = encoder[:, chosen].T.copy()
            del encoder
            decoder = file["W_dec"]
            _check_shapes(shape, decoder.shape, chosen)
            rows, bias = decoder[chosen], file["b_enc"][chosen]
            threshold = file["threshold"][chosen]
    except VectorInvalid:
        raise
    except (ValueError, zipfile.BadZipFile, EOFError, IndexError) as error:
        raise VectorInvalid(f"{path.name} is not whole: {error}", param="file") from None
    parts = (columns, rows, bias, threshold)
    return _Read(*(torch.from_numpy(np.ascontiguousarray(part)).float() for part in parts))


def _check_shapes(
    encoder: tuple[int, ...], decoder: tuple[int, ...], chosen: Sequence[int]
) -> None:
    if len(encoder) != 2 or tuple(reversed(encoder)) != decoder:
        raise VectorInvalid(
            f"W_enc has shape {list(encoder)} and W_dec {list(decoder)}; they must be [hidden, "
            "features] and [features, hidden]",
            param="W_enc",
            code="bad_shape",
        )
    for n in chosen:
        if not 0 <= n < encoder[1]:
            raise VectorInvalid(
                f"there is no feature {n}: this SAE has {encoder[1]}, from 0", param="features"
            )


def _unknown(key: str, value: object, why: str) -> VectorInvalid:
    return VectorInvalid(
        f"{key} of {CONFIG} is {shown(value)}, which {why}; its features would not be what they "
        "are in the SAE",
        param=key,
        code="unknown_layout",
    )


def _no_tensor(name: str) -> VectorInvalid:
    return VectorInvalid(f"there is no tensor {name}", param=name, code="unknown_tensor")
