"""Steersman: activation steering per request on vLLM's engine.

    SteeringVector   a vector: tensors by (site, layer), and its defaults
    load             a vector out of a file of ours, or of another tool
    Client           a server: vectors, presets, jobs, chats with receipts; AsyncClient for asyncio
    offline          the same steering for vLLM's own `LLM`, without a server
    Refused          what a server refuses; Unreachable: no server answers
    PlanInvalid      what offline steering refuses, beside SteersmanError
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
    from steersman.client.api.asynchronous import AsyncClient
    from steersman.client.api.sync import Client
    from steersman.client.errors import Refused, Unreachable
    from steersman.server.offline.steer import offline
    from steersman.steering.plan.errors import PlanInvalid
    from steersman.vectors.errors import SteersmanError
    from steersman.vectors.formats.load import load
    from steersman.vectors.vector import SteeringVector

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "PlanInvalid",
    "Refused",
    "SteeringVector",
    "SteersmanError",
    "Unreachable",
    "__version__",
    "load",
    "offline",
]
_WHERE = {
    "AsyncClient": "client.api.asynchronous",
    "Client": "client.api.sync",
    "PlanInvalid": "steering.plan.errors",
    "Refused": "client.errors",
    "SteeringVector": "vectors.vector",
    "SteersmanError": "vectors.errors",
    "Unreachable": "client.errors",
    "load": "vectors.formats.load",
    "offline": "server.offline.steer",
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("steersman")
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"steersman.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
