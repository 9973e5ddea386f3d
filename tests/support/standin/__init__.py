"""Stand-ins for what a machine without a GPU lacks."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[3]
TRITON_CPU = Path(__file__).parent / "triton_cpu"
"""A folder with a `sitecustomize`: on PYTHONPATH, it is run by every Python process that starts."""


def v2_environment() -> dict[str, str]:
    """What makes vLLM take its V2 model runner on a CPU: Triton's interpreter runs its kernels.

    Inductor would take the stand-in for a Triton that compiles (under tensor parallel vLLM compiles
    a function of the embedding, in eager mode too).
    """
    return {
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "TRITON_INTERPRET": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join([str(TRITON_CPU), str(ROOT)]),
    }
