"""Steersman: activation steering per request on vLLM's engine.

    SteeringVector   a vector: tensors by (site, layer), and its defaults
    load             a vector out of a file of ours, or of another tool
    __version__      the installed version, such as "0.1.0"

>>> import torch
>>> from safetensors.torch import save_file
>>> from steersman import SteeringVector, load
>>> save_file({"resid_post.14": torch.ones(8)}, "glad.safetensors")
>>> vector = load("glad.safetensors")
>>> isinstance(vector, SteeringVector), vector.name, vector.layers
(True, 'glad', (14,))

The rooms are folders of the repository, linked here:

    vectors    a vector at rest: the file, the library on disk, how vectors are made
    steering   inside vLLM's processes: what a request asks for, and the addition
    server     HTTP: what a client of the server sees
    client     all that talks to a server: command line, chat, sweep, and `steersman serve`

Nothing is imported before it is used: vLLM imports this package in each of its processes, and
`steersman --help` has to be quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steersman.vectors.formats.load import load
    from steersman.vectors.vector import SteeringVector

    __version__: str

__all__ = ["SteeringVector", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("steersman")
    if name == "SteeringVector":
        from steersman.vectors.vector import SteeringVector

        return SteeringVector
    if name == "load":
        from steersman.vectors.formats.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
