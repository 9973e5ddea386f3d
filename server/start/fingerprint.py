"""Identifies the served model and its weights, so that files can name the model they were made
on."""

import hashlib
import json
from pathlib import Path
from typing import Any

_PASSING = frozenset({"_name_or_path", "dtype", "torch_dtype", "transformers_version"})
_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})


def fingerprint(model_config: Any) -> str:
    """A hash (16 hex digits) of a model's configuration and of its weight files' names and sizes.

    It is the same on every server of the model: the place of its files, the dtype in which it runs
    and the version of transformers that wrote its configuration make no difference.
    """
    digest = hashlib.sha256()
    configuration = _lasting(model_config.hf_config.to_dict())
    digest.update(json.dumps(configuration, sort_keys=True, default=str).encode())
    folder = Path(model_config.model)
    if folder.is_dir():
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(f"{path.name}:{path.stat().st_size}".encode())
    else:
        digest.update(f"{model_config.model}@{model_config.revision}".encode())
    return digest.hexdigest()[:16]


def _lasting(configuration: Any) -> Any:
    """The parts of a model's `configuration` that are the same on every server."""
    if isinstance(configuration, dict):
        return {k: _lasting(v) for k, v in configuration.items() if k not in _PASSING}
    return configuration


def calibration_mark(config: Any) -> str:
    """A hash (16 hex digits) of the weights that the engine of vLLM's `config` runs on.

    It depends on more than the fingerprint, which all replicas of a model share: random weights,
    quantised weights, and a fine-tune written over the old files have other norms.
    """
    model, folder = config.model_config, Path(config.model_config.model)
    files = folder.iterdir() if folder.is_dir() else iter([folder])
    weights = [path for path in files if path.suffix in _WEIGHTS and path.is_file()]
    stats = [(path.name, path.stat()) for path in weights]
    told = [
        fingerprint(model),
        str(model.dtype),
        config.load_config.load_format,
        model.quantization,
        # The commit that a name on the hub stood for, as transformers and huggingface_hub say it.
        getattr(model.hf_config, "_commit_hash", None),
        getattr(model.revision, "resolved", None),
        sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats),
    ]
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:16]
