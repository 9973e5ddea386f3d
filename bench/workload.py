"""What the overhead benchmark sends: five ways to serve, and proof that each was served so."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import httpx
import torch
from safetensors.torch import save

from bench.servers import Server
from bench.streams import Batch, Body

Tensors = dict[str, torch.Tensor]
VECTORS = 16
SUBJECTS = ("rivers", "bread", "clocks", "bridges", "owls", "maps", "rain", "chess")
LAYERS_OF_ONE = 2
VECTORS_OF_A_MIX = 4
LAYERS_OF_A_MIX = 8


@dataclass(frozen=True)
class Configuration:
    """A way to serve; `steering` gives the field for the n-th request of a batch, if any."""

    name: str
    server: Server
    steering: Callable[[int], Body | None]


def configurations(
    plain: Server, ours: Server, layers: int, seed: int, same_layers: bool = False
) -> list[Configuration]:
    """The five of the benchmark. Mixes are drawn once, so that every round sends the same.

    Each vector of a mix takes layers of its own, so that with a few requests every layer of the
    model has something to add; with `same_layers` all take the same ones, spread evenly.
    """
    draw = random.Random(seed)
    ids = [f"bench-{n}" for n in range(VECTORS)]
    middle = layers // 2
    one = {
        "vectors": [
            {
                "id": ids[0],
                "coefficient": 1.0,
                "layers": list(range(middle, middle + LAYERS_OF_ONE)),
                "positions": "generation",
            }
        ]
    }
    mixes: dict[int, Body] = {}
    count = min(LAYERS_OF_A_MIX, layers)
    spread = [n * layers // count for n in range(count)]

    def mix(n: int) -> Body:
        if n not in mixes:
            mixes[n] = {
                "vectors": [
                    {
                        "id": name,
                        "coefficient": draw.uniform(-1, 1),
                        "layers": spread
                        if same_layers
                        else sorted(draw.sample(range(layers), count)),
                        "positions": "generation",
                    }
                    for name in draw.sample(ids, VECTORS_OF_A_MIX)
                ]
            }
        return mixes[n]

    return [
        Configuration("plain", plain, lambda n: None),
        Configuration("plain_again", plain, lambda n: None),
        Configuration("idle", ours, lambda n: None),
        Configuration("one_vector", ours, lambda n: one),
        Configuration("distinct_mixes", ours, mix),
    ]


def operations(ours: Server, layers: int) -> list[Configuration]:
    """One for each operation: every request has a vector and a coefficient of its own, at
    `LAYERS_OF_A_MIX` layers."""
    count = min(LAYERS_OF_A_MIX, layers)
    spread = [n * layers // count for n in range(count)]
    keys: dict[str, Body] = {
        "add": {},
        "project": {},
        "clamp": {"max": 0.5},
        "feature": {"multiply": 2.0},
        "transport": {},
        "rotate": {"angle": 30.0},
        "replace": {"positions": {"start": 0, "of": "answer"}},
    }

    def arm(name: str) -> Callable[[int], Body]:
        def steering(n: int) -> Body:
            use = {"id": _name(name, n % VECTORS), "operation": name, "layers": spread}
            strength = (0.001 if name == "replace" else 0.1) * (1 + n)
            return {"vectors": [{"coefficient": strength, **use, **keys[name]}]}

        return steering

    return [Configuration(name, ours, arm(name)) for name in keys]


def _name(operation: str, n: int) -> str:
    """The vector for an operation: those with one direction share theirs."""
    own = operation in ("feature", "transport", "rotate")
    return f"bench-{operation}-{n}" if own else f"bench-{n}"


def _parts(operation: str, layer: int, row: torch.Tensor, other: torch.Tensor) -> Tensors:
    """The tensors that an operation needs at a layer: of two unit rows [hidden] float32."""
    parts: Tensors = {"bias": torch.ones(1)}
    if operation == "feature":
        parts |= {"encoder": row, "decoder": other}
    elif operation == "transport":
        parts = {"weight": 1 + row, "bias": other, "low": row - 1, "high": row + 1}
    else:
        other = other - (other @ row) * row
        parts = {"b1": row, "b2": other / other.norm()}
    return {f"resid_post.{layer}.{part}": tensor.clone() for part, tensor in parts.items()}


def bodies(configuration: Configuration, size: int, tokens: int) -> list[Body]:
    """A batch of greedy requests with different prompts of about the same length."""
    batch: list[Body] = []
    for n in range(size):
        body: Body = {
            "model": "bench",
            "prompt": f"Lesson {n + 1}. Here is what everybody should know about "
            f"{SUBJECTS[n % len(SUBJECTS)]}, told in plain words:",
            "max_tokens": tokens,
            "temperature": 0.0,
            "ignore_eos": True,
        }
        if (steering := configuration.steering(n)) is not None:
            body["steering"] = steering
        batch.append(body)
    return batch


def random_vectors(layers: int, hidden: int, seed: int) -> Iterator[torch.Tensor]:
    """`VECTORS` of length 1 at every layer, each [layers, hidden]: small beside the stream, so that
    texts stay sane."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(VECTORS):
        rows = torch.randn(layers, hidden, generator=generator)
        yield rows / rows.norm(dim=1, keepdim=True)


def upload_vectors(
    server: Server, layers: int, hidden: int, seed: int, operations: Iterable[str] = ()
) -> None:
    """Put the random vectors into the server's library, and as many for each of `operations` that
    needs its own."""
    made = list(random_vectors(layers, hidden, seed))
    for n, rows in enumerate(made):
        _upload(server, f"bench-{n}", {f"resid_post.{i}": r.clone() for i, r in enumerate(rows)})
        for operation in operations:
            name, tensors = _name(operation, n), Tensors()
            if name != f"bench-{n}":
                for layer, (row, other) in enumerate(zip(rows, made[n - 1], strict=True)):
                    tensors |= _parts(operation, layer, row, other)
                _upload(server, name, tensors)


def _upload(server: Server, name: str, tensors: Tensors) -> None:
    response = httpx.post(
        f"{server.url}/v1/steering/vectors",
        files={"file": (f"{name}.safetensors", save(tensors))},
        data={"name": name},
        timeout=60,
    )
    if not response.is_success:
        raise RuntimeError(f"uploading {name}: {response.status_code} {response.text}")


def check_receipts(configuration: Configuration, batch: Batch) -> None:
    """A benchmark of steering that did not happen would be a fine one; refuse it."""
    for n, request in enumerate(batch.requests):
        wanted = configuration.steering(n)
        steered = [v["steered_tokens"] for v in (request.receipt or {}).get("vectors", [])]
        if len(steered) != (len(wanted["vectors"]) if wanted else 0) or not all(steered):
            raise RuntimeError(f"{configuration.name}, request {n}: receipt {request.receipt}")
