"""Seam: vLLM's configuration (`config/vllm.py`): sizes, settings, and the compile-cache key."""

import hashlib
import sys
from pathlib import Path
from typing import Any

from steersman.steering.plan.dynamic import MAX_PROPERTIES
from steersman.steering.plan.limits import STEERABLE_SITES, Limits
from steersman.steering.plan.settings import Settings
from steersman.steering.vllm import seams
from steersman.steering.vllm.patching import Function, wrap
from steersman.steering.vllm.seam_check import lacking
from steersman.steering.worker.tables import TableSizes

_GRPC = ("vllm.entrypoints.launchers.grpc_server", "vllm.entrypoints.grpc_server")
SUPPORTED_VLLM = ("0.31.", "0.32.")
"""Version prefixes whose seams have been read, and tried by `make compat`."""


def check_version(version: str) -> None:
    """Raise RuntimeError for a vLLM that Steersman has not been tested with; the message says which
    seams it lacks, of those that are needed everywhere and in the API server."""
    if not version.startswith(SUPPORTED_VLLM):
        wanted = " or ".join(prefix + "*" for prefix in SUPPORTED_VLLM)
        missing = lacking(s for s in seams.SEAMS if s.process in (seams.EVERY, seams.API_SERVER))
        reason = (
            f"in which {'; '.join(missing)}"
            if missing
            else "whose internals nobody has read and tried: it would not be sure to steer rightly"
        )
        raise RuntimeError(
            f"Steersman supports vLLM {wanted}, this is {version}, {reason}. Install a supported "
            "vLLM, or take steersman out of VLLM_PLUGINS."
        )


def check_frontend() -> None:
    """Raise RuntimeError for vLLM's other front ends, in Rust and of gRPC: they load no endpoint
    plugins, and would ignore the `steering` field."""
    import vllm.envs as envs

    if envs.VLLM_USE_RUST_FRONTEND:
        raise RuntimeError("Steersman needs vLLM's Python front end: unset VLLM_USE_RUST_FRONTEND")
    if any(name in sys.modules for name in _GRPC) or "--grpc" in sys.argv:
        raise RuntimeError(
            "Steersman steers over HTTP alone, and a gRPC server would ignore it: leave out "
            "--grpc, or take steersman out of VLLM_PLUGINS"
        )


def num_layers(vllm_config: Any) -> int:
    """How many decoder blocks the model has, over all pipeline ranks."""
    return int(vllm_config.model_config.hf_text_config.num_hidden_layers)


def limits_of(vllm_config: Any) -> Limits:
    """The limits of this engine."""
    return Limits.of(Settings.read(vllm_config.additional_config), num_layers(vllm_config))


def table_sizes(vllm_config: Any, max_tokens: int) -> TableSizes:
    """Sizes of the tables of one worker; `max_tokens` is the most tokens of a padded step."""
    settings = Settings.read(vllm_config.additional_config)
    return TableSizes(
        slots=len(STEERABLE_SITES) * num_layers(vllm_config),
        table_entries=vllm_config.scheduler_config.max_num_seqs * settings.max_segments
        + step_entries(vllm_config),
        terms=settings.max_terms,
        bank_rows=settings.bank_rows,
        hidden=int(vllm_config.model_config.get_hidden_size()),
        tokens=max_tokens,
    )


def step_entries(vllm_config: Any) -> int:
    """Table entries for requests that need one for each of many steps: enough for any one of them,
    its companions included."""
    settings = Settings.read(vllm_config.additional_config)
    return (MAX_PROPERTIES + 1) * settings.most_segments


def no_dynamic(vllm_config: Any) -> str | None:
    """Why no request of this engine can be composed dynamically, None if it can."""
    if vllm_config.speculative_config is not None:
        return "speculative decoding"
    if vllm_config.scheduler_config.async_scheduling:
        return "asynchronous scheduling (start the server with --no-async-scheduling)"
    return None


def runs_python(vllm_config: Any) -> bool:
    """True where each step runs the model's Python: no compiled graph, no captured CUDA graph."""
    from vllm.config import CompilationMode, CUDAGraphMode

    compilation = vllm_config.compilation_config
    return bool(
        compilation.mode == CompilationMode.NONE
        and compilation.cudagraph_mode in (None, CUDAGraphMode.NONE)
    )


def source_digest() -> str:
    """SHA-256 (hex) over the sources of the room `steering`: what the compiled graph is made
    with."""
    digest = hashlib.sha256()
    room = Path(__file__).parents[1]
    for path in sorted(room.rglob("*.py")):
        digest.update(path.relative_to(room).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def install() -> None:
    """Put this package into vLLM's compile-cache key, so that a graph without the operation is
    never served to an engine that steers. Idempotent."""
    from vllm.config import VllmConfig

    wrap(VllmConfig, "compute_hash", _with_our_sources)


def _with_our_sources(original: Function) -> Function:
    own = source_digest()

    def compute_hash(self: Any, *args: Any, **kwargs: Any) -> str:
        theirs: str = original(self, *args, **kwargs)
        return hashlib.sha256(f"{theirs}:{own}".encode()).hexdigest()[: len(theirs)]

    return compute_hash
