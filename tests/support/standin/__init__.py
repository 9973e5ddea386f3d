"""Stand-ins for what a machine without a GPU lacks."""

import os
from pathlib import Path

_HERE = Path(__file__).parent
ROOT = _HERE.parents[2]
# A folder with a `sitecustomize`, which every Python process that starts with it runs, one with
# the entry points of a plugin, and where this package lies.
_PATH = os.pathsep.join(map(str, (_HERE / "triton_cpu", _HERE / "plugins", ROOT)))


def v2_environment() -> dict[str, str]:
    """What makes vLLM take its V2 model runner on a CPU: Triton's interpreter runs its kernels.

    Under tensor parallel vLLM compiles a function of the embedding, in eager mode too, which is
    left out.
    """
    return {
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "TRITON_INTERPRET": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "PYTHONPATH": _PATH,
    }


def asynchronous_environment() -> dict[str, str]:
    """What makes vLLM schedule asynchronously on a CPU, as it does on a GPU: `asynchronous`."""
    return {"VLLM_PLUGINS": "steersman,asynchronous", "PYTHONPATH": _PATH}
