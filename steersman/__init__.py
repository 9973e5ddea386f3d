"""Steersman: activation steering per request on vLLM's engine.

    from steersman import SteeringVector, load

    vector = load("glad.gguf", name="glad")   # any file that `steersman vectors import` reads
    vector.layers

The rooms are folders of the repository, linked here: `steersman.server`, `steersman.steering`,
`steersman.vectors`, `steersman.client`. Nothing is imported before it is used: vLLM imports this
package in each of its processes, and `steersman --help` has to be quick.
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
