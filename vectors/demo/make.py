"""Makes the demo vectors from the contrast texts on the demo model."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from steersman.vectors.demo.activations import QUESTION, load_model
from steersman.vectors.demo.contrast import Contrast, contrasts
from steersman.vectors.demo.defaults import DemoDefaults, load_defaults
from steersman.vectors.demo.directions import Directions, find_directions
from steersman.vectors.demo.model import CONVERSION, GGUF_SHA256, MODEL_NAME
from steersman.vectors.demo.presets import add_presets
from steersman.vectors.errors import DemoError, VectorConflict
from steersman.vectors.file.format import BaseModel, SteeringVector, tensor_name, write_vector
from steersman.vectors.library.disk import replace
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint

Progress = Callable[[str], None]

SITE = "resid_post"
# A band of layers is stored, so that a request may choose others than the measured default.
LAYERS = tuple(range(8, 21))
# Fixed, so that the same texts on the same machine give the same file.
CREATED_AT = "2025-01-01T00:00:00+00:00"
# Raise it whenever the vectors come out differently for the same texts and defaults.
RECIPE = 1
_STAMP = "made-from.txt"


def make_vectors(model_dir: Path, out_dir: Path, progress: Progress = print) -> list[Path]:
    """Write one `<name>.safetensors` for each demo vector into `out_dir` and return their paths.

    The bytes are the same each time on one machine. Files that are there already, from the same
    texts, defaults and model, are kept. Raises `DemoError`.
    """
    defaults = load_defaults()
    wanted = {name: contrasts()[name] for name in defaults}
    paths = [out_dir / f"{name}.safetensors" for name in wanted]
    recipe = _recipe(wanted, defaults)
    try:
        if _made_from(out_dir) == recipe and all(path.is_file() for path in paths):
            progress(f"demo vectors: ready in {out_dir}")
            return paths
        progress("demo vectors: loading the model (once, about 30 s in all)")
        loaded = load_model(model_dir, blocks=LAYERS[-1] + 1)
        found = find_directions(loaded, wanted, LAYERS, progress)
        config = loaded.model.config
        base = BaseModel(MODEL_NAME, int(config.hidden_size), int(config.num_hidden_layers))
        out_dir.mkdir(parents=True, exist_ok=True)
        for path, (name, contrast) in zip(paths, wanted.items(), strict=True):
            vector = build_vector(contrast, found, defaults[name], base)
            replace(path, write_vector(vector))
        replace(out_dir / _STAMP, recipe.encode())
    except OSError as error:
        raise DemoError(f"cannot write demo vectors to {out_dir}: {error}") from error
    progress(f"demo vectors: made {', '.join(wanted)}")
    return paths


def build_vector(
    contrast: Contrast, found: Directions, defaults: DemoDefaults, base: BaseModel
) -> SteeringVector:
    """Scale the raw directions so that coefficient 1 has the relative dose `defaults.unit_dose` at
    every layer."""
    raw = found.difference[contrast.name][defaults.read]
    scales = {
        layer: scale_for(direction, found.median_norm[layer], defaults.unit_dose)
        for layer, direction in raw.items()
    }
    tensors = {HookPoint(SITE, layer): raw[layer] * scale for layer, scale in scales.items()}
    return SteeringVector(
        tensors=tensors,
        name=contrast.name,
        description=contrast.description,
        method="mean_difference",
        method_settings={
            "pairs": len(contrast.positive),
            "read": defaults.read,
            "question": QUESTION,
            "unit_dose": defaults.unit_dose,
            "scale": {tensor_name((SITE, layer)): scale for layer, scale in scales.items()},
            "median_residual_norm": {
                tensor_name((SITE, layer)): found.median_norm[layer] for layer in scales
            },
        },
        base_model=base,
        coefficient=defaults.coefficient,
        layers=defaults.layers,
        safe_range=defaults.safe_range,
        norms={tensor_name(key): float(tensor.norm()) for key, tensor in tensors.items()},
        licence="Apache-2.0",
        created_at=CREATED_AT,
    )


def scale_for(raw: torch.Tensor, median_norm: float, unit_dose: float) -> float:
    """The factor that gives `raw` the length `unit_dose * median_norm`."""
    return unit_dose * median_norm / float(raw.norm())


def _recipe(wanted: dict[str, Contrast], defaults: dict[str, DemoDefaults]) -> str:
    parts = (RECIPE, CONVERSION, GGUF_SHA256, LAYERS, QUESTION, wanted, defaults)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _made_from(out_dir: Path) -> str:
    try:
        return (out_dir / _STAMP).read_text()
    except FileNotFoundError:
        return ""


def fill_library(model_dir: Path, library_dir: Path, progress: Progress = print) -> None:
    """Make the demo vectors beside the model, and add those that the library lacks, and the demo
    presets.

    A name that has other content belongs to the user and is left unchanged. Raises `DemoError` or
    `LibraryError`.
    """
    library = Library(library_dir)
    for path in make_vectors(model_dir, model_dir.parent / f"{model_dir.name}-vectors", progress):
        try:
            _, new = library.add(path.read_bytes())
        except VectorConflict:
            progress(f"demo vectors: the library has another {path.stem!r}, which is kept")
            continue
        if new:
            progress(f"demo vectors: added {path.stem!r} to {library_dir}")
    add_presets(library, library_dir, progress)
