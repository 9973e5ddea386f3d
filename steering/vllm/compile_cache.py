"""Seam: the key of vLLM's compile cache (`config/vllm.py: VllmConfig.compute_hash`)."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersman.steering.vllm.seam import Function, wrap

if TYPE_CHECKING:
    from vllm.config import VllmConfig


_graph: list[str] = []
"""What names this process's graph, beside sources and configuration."""


def name_graph(name: str) -> None:
    """Add `name` to the compile-cache key from now on. It stands for what was decided at the start,
    such as the layers and sites that have an operation. Call before the model is compiled."""
    _graph[:] = [name]


def source_digest() -> str:
    """SHA-256 (hex) over the sources of the room `steering`, from which the compiled graph is
    made."""
    digest = hashlib.sha256()
    room = Path(__file__).parents[1]
    for path in sorted(room.rglob("*.py")):
        digest.update(path.relative_to(room).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def install() -> None:
    """Add our sources to vLLM's compile-cache key, so that a graph without the operation is never
    used in an engine that steers. Idempotent."""
    from vllm.config import VllmConfig

    wrap(VllmConfig, "compute_hash", _with_our_sources)


def _with_our_sources(original: Function) -> Function:
    own = source_digest()

    def compute_hash(self: "VllmConfig", *args: Any, **kwargs: Any) -> str:
        theirs: str = original(self, *args, **kwargs)
        key = ":".join([theirs, own, *_graph])
        return hashlib.sha256(key.encode()).hexdigest()[: len(theirs)]

    return compute_hash
